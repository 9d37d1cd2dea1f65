// The first view: how the node is, what it holds, its peers and its keys.

import { POLLS_PER_LISTING, takeSample } from './dashboard.js';
import {
  MOST_ROWS, h, panel, code, fact, note, num, fixed, named, table, row, count, percent, instant, plural, bytes, duration, visible, codecClass,
  keyLink, versionLink, heading, addressLines, swatch,
} from './elements.js';
import { rounded, binaryCeiling, decimalCeiling, plot } from './plots.js';
import { state, getJson, tolerate } from './requests.js';
import { peerRing } from './ring.js';

export async function overview() {
  const [keys, peers] = await Promise.all([getJson('/api/v1/keys?prefix='), getJson('/api/v1/peers'), takeSample()]);
  const health = slot(healthFacts);
  const identity = slot(identityFacts);
  const tiles = slot(storeTiles);
  const codecs = slot(codecBar);
  const ring = slot(peerRing);
  const transfer = plot('plot-transfer', 'Sent and received', ['sent', 'received'], (rate) => `${bytes(rate)}/s`, binaryCeiling);
  const cache = plot('plot-cache', 'Cache hits and misses', ['hits', 'misses'], (rate) => `${rounded(rate)}/s`, decimalCeiling);
  const listing = keyListing(keys);
  let latestPeers = peers;

  const draw = () => {
    const { peer_id, place, scope, network_id, listen } = state.health;
    health.draw([state.health, state.trouble]);
    identity.draw({ peer_id, scope, network_id, listen });
    tiles.draw(state.stat);
    codecs.draw(state.stat.codecs);
    ring.draw([peer_id, place, latestPeers]);
    transfer.draw();
    cache.draw();
  };
  const refresh = async () => {
    draw();
    if (state.polls % POLLS_PER_LISTING !== 0) return;
    latestPeers = await getJson('/api/v1/peers');
    await listing.reload();
  };
  const content = [
    heading('Overview', { class: 'quiet' }),
    panel('Node', null, health.node, identity.node),
    tiles.node,
    h('div', { class: 'columns' },
      h('div', { class: 'stack' }, listing.node, panel('Chunks by encoding', null, codecs.node)),
      h('div', { class: 'stack' }, transfer.node, cache.node)),
    panel('Peers on the keyspace ring', null, ring.node),
  ];
  draw();
  return { title: 'Overview', content, draw, refresh };
}

/** A place that is drawn anew only when its data changed: what a reader has selected or focused there stays. */
function slot(render) {
  const node = h('div');
  let last;
  const draw = (data) => {
    const text = JSON.stringify(data);
    if (text === last) return;
    last = text;
    const focused = node.contains(document.activeElement) ? document.activeElement.getAttribute('href') : null;
    node.replaceChildren(...[render(data)].flat());
    if (focused) [...node.querySelectorAll('a')].find((link) => link.getAttribute('href') === focused)?.focus();
  };
  return { node, draw };
}

function healthStatus(health, trouble) {
  if (trouble) return ['bad', trouble];
  const troubles = [
    health.under_replicated > 0 && `${plural(health.under_replicated, 'chunk')} on too few peers`,
    health.wrong_chunks > 0 && `${plural(health.wrong_chunks, 'wrong chunk')} received`,
    health.known_peers > 0 && health.connected_peers === 0 && 'no peer connected',
  ].filter(Boolean);
  return troubles.length > 0 ? ['warn', troubles.join(', ')] : ['good', 'healthy'];
}

function healthFacts([health, trouble]) {
  const [level, words] = healthStatus(health, trouble);
  const alarm = (value) => (value > 0 ? h('span', { class: 'raised' }, count(value)) : count(value));
  const compared = health.compared_seconds_ago;
  const turnedAway = health.refused_connections > 0 && `${plural(health.refused_connections, 'connection')} refused`;
  return h('dl', { class: 'facts five' },
    fact('Status', h('span', { class: `status ${level}`, 'data-testid': 'health-status' }, words)),
    fact('Uptime', duration(health.uptime_seconds)),
    fact('Peers', [`${count(health.connected_peers)} connected, ${count(health.known_peers)} known`, turnedAway].filter(Boolean).join(', ')),
    fact('Under-replicated chunks', typeof health.under_replicated === 'number' ? alarm(health.under_replicated) : 'not known yet'),
    fact('Holders compared', typeof compared === 'number' ? `${duration(compared)} ago` : 'not yet'),
    fact('Leases of others', count(health.leases)),
    fact('Refused records', alarm(health.refused_records)),
    fact('Refused requests', alarm(health.refused_requests)),
    fact('Wrong chunks', alarm(health.wrong_chunks)),
    fact('Broken streams', alarm(health.broken_streams)));
}

function identityFacts({ peer_id: peer, scope, network_id: network, listen: addresses }) {
  return h('dl', { class: 'facts two' },
    fact('Peer id', code(peer)),
    fact('Scope', code(scope)),
    fact('Listens on', addressLines(addresses)),
    fact('Network', code(network)));
}

function storeTiles(stat) {
  const tile = (label, value, detail) => fact(label, [value, h('small', {}, detail)]);
  return h('dl', { class: 'tiles' },
    tile('Logical', bytes(stat.logical_bytes), 'payloads of all versions'),
    tile('Stored', bytes(stat.stored_bytes), `in ${plural(stat.packs, 'pack')}`),
    tile('Ratio', percent(stat.stored_bytes, stat.logical_bytes), 'stored of logical'),
    tile('Chunks', count(stat.chunks), 'each kept once'),
    tile('Keys', count(stat.keys), 'names'),
    tile('Versions', count(stat.versions), 'of these keys'));
}

function codecBar(codecs) {
  const used = Object.entries(codecs).sort((a, b) => b[1].chunks - a[1].chunks);
  if (used.length === 0) return note('No chunks yet.');
  const bar = h('div', { class: 'stacked', 'aria-hidden': 'true' }, used.map(([name, use]) => {
    const part = h('span', { class: codecClass(name), title: `${visible(name)}: ${plural(use.chunks, 'chunk')}` });
    part.style.flex = `${use.chunks} 1 0`;
    return part;
  }));
  const rows = used.map(([name, use]) => row([
    h('span', { class: 'legend-cell' }, swatch(codecClass(name)), visible(name)),
    num(count(use.chunks)), num(bytes(use.raw_bytes)), num(bytes(use.stored_bytes)), num(percent(use.stored_bytes, use.raw_bytes)),
  ]));
  return [bar, table('Chunks by encoding', ['Encoding', num('Chunks'), num('Plain'), num('Stored'), num('Ratio')], rows)];
}

function keyListing(firstKeys) {
  let asked = 0;
  let timer;
  const input = h('input', { id: 'prefix', type: 'search', placeholder: 'team/', autocomplete: 'off', spellcheck: 'false' });
  const list = slot(([keys, prefix]) => keysTable(keys, prefix));
  const reload = async () => {
    const mine = ++asked;
    const prefix = input.value;
    const keys = await getJson(`/api/v1/keys?prefix=${encodeURIComponent(prefix)}`);
    if (mine === asked) list.draw([keys, prefix]);
  };
  input.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(() => reload().catch(tolerate), 200);
  });
  list.draw([firstKeys, '']);
  const field = h('span', { class: 'field' }, h('label', { for: 'prefix' }, 'Names that start with'), input);
  return { node: panel('Keys', field, list.node), reload };
}

function keysTable(keys, prefix) {
  if (keys.length === 0 && prefix !== '') return note(`No key starts with “${visible(prefix)}”.`);
  if (keys.length === 0) return note('nothing stored yet: ', h('code', {}, 'caskad put FILE --as KEY'));
  const rows = keys.slice(0, MOST_ROWS).map((key) => row([
    named(keyLink(key.key)), num(count(key.versions)), num(versionLink(key.key, key.latest, `@${key.latest}`)),
    num(bytes(key.bytes)), fixed(instant(key.created)),
  ], { 'data-testid': 'key-row' }));
  const titles = ['Key', num('Versions'), num('Latest'), num('Payload'), 'Created (UTC)'];
  const listed = table('Keys', titles, rows, { 'data-testid': 'keys-table' });
  if (keys.length <= MOST_ROWS) return listed;
  return [listed, h('p', { class: 'muted' }, `The first ${MOST_ROWS} of ${count(keys.length)}: type the start of a name to see others.`)];
}
