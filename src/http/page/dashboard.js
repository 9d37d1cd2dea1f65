// The dashboard of a caskad node. Keys, paths, tensor names and metadata come from strangers: they reach the page as text nodes
// and attribute values only, never as markup.

const POLL_MS = 2000;
const ANSWER_MS = 15000;
const POLL_ANSWER_MS = 5000;
const POLLS_PER_LISTING = 5;
const HISTORY_MS = 180000;
const SVG = 'http://www.w3.org/2000/svg';
const TOKEN_NAME = 'caskad-token';
const MOST_ROWS = 200;
// Longest names first: `planes-rans-…` is not `planes`.
const CODECS = ['planes-rans', 'delta-ctx', 'planes', 'delta', 'patch', 'zstd', 'raw'];
const SHARES = ['new or all changed', 'under 25 % shared', '25 to 50 %', '50 to 75 %', '75 % and more', 'unchanged'];

const byId = (id) => document.getElementById(id);
const main = byId('main');

// ---- Elements

function assemble(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const h = (tag, attributes = {}, ...children) => assemble(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) => assemble(document.createElementNS(SVG, tag), attributes, children);

const panel = (title, side, ...content) => h('section', { class: 'panel' }, h('header', {}, h('h2', {}, title), side), content);
const code = (text) => h('code', { class: 'mono' }, visible(text));
const fact = (label, value, wide = false) => h('div', { class: wide && 'wide' }, h('dt', {}, label), h('dd', {}, value));
const aside = (text) => h('span', { class: 'muted' }, text);
const note = (...content) => h('p', { class: 'note' }, content);
const classed = (name) => (value) => ({ value, class: name });
const [num, fixed, named, longName, clipped] = ['num', 'fixed', 'name', 'name long', 'clip'].map(classed);

/** A table in a box that scrolls by itself. A cell is text, an element, or `{value, class}`; the first of each row is its header. */
function table(caption, titles, rows, attributes = {}, boxClass = '') {
  const head = h('tr', {}, titles.map((title) => h('th', { scope: 'col', class: title.class }, title.value ?? title)));
  const parts = [h('caption', { class: 'quiet' }, caption), h('thead', {}, head), h('tbody', {}, rows)];
  return scrollBox(caption, boxClass, h('table', attributes, parts));
}

function scrollBox(label, boxClass, content) {
  return h('div', { class: `scroll ${boxClass}`, tabindex: 0, role: 'region', 'aria-label': label }, content);
}

function row(cells, attributes = {}) {
  return h('tr', attributes, cells.map((cell, i) => {
    const boxed = cell !== null && typeof cell === 'object' && 'value' in cell && !(cell instanceof Node);
    return h(i === 0 ? 'th' : 'td', { scope: i === 0 && 'row', class: boxed && cell.class }, boxed ? cell.value : cell);
  }));
}

// ---- Words for values

const DASH = '–';
const count = (value) => (value === null || value === undefined ? DASH : value.toLocaleString('en'));
const percent = (part, whole) => (whole > 0 && part !== null ? `${((part / whole) * 100).toFixed(1)} %` : DASH);
const instant = (text) => (text ? h('time', { datetime: text }, text.replace('T', ' ').replace('Z', '')) : DASH);
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

function bytes(value) {
  if (value === null || value === undefined) return DASH;
  if (value < 1024) return `${Math.round(value)} B`;
  const power = Math.min(5, Math.floor(Math.log2(value) / 10));
  return `${(value / 1024 ** power).toFixed(1)} ${['KiB', 'MiB', 'GiB', 'TiB', 'PiB'][power - 1]}`;
}

function duration(seconds) {
  const [d, hrs, min] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (d) return `${d} d ${hrs} h`;
  if (hrs) return `${hrs} h ${min} min`;
  return min ? `${min} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

/** Control, zero-width and direction-changing characters written out: a name cannot pass for another one. */
function visible(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (c) => `\\u{${c.charCodeAt(0).toString(16)}}`);
}

const codecClass = (name) => CODECS.find((known) => name === known || name.startsWith(`${known}-`)) ?? 'other';
const codecWords = (codecs) => Object.entries(codecs).map(([name, n]) => `${visible(name)} ${count(n)}`).join(', ') || DASH;

function dominantCodec(item) {
  const [first] = Object.entries(item.codecs).sort((a, b) => b[1] - a[1]);
  return first ? first[0] : null;
}

function shareClass(item) {
  const share = item.bytes > 0 ? item.shared_bytes / item.bytes : 0;
  if (share <= 0) return 0;
  return share >= 1 ? 5 : 1 + Math.min(3, Math.floor(share * 4));
}

// ---- Requests

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const state = { token: sessionStorage.getItem(TOKEN_NAME), answered: null, trouble: null, health: null, stat: null, samples: [], polls: 0 };
const segments = (key) => key.split('/').map(encodeURIComponent).join('/');
const blobPath = (version, path) => `/blobs/${segments(version.key)}@${version.version}?file=${encodeURIComponent(path)}`;

/** `read` takes the body inside the same guard: an answer may also break off half-way. Without `patience` it may take any time. */
async function request(path, read, patience) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const signal = patience && AbortSignal.timeout(patience);
  try {
    const response = await fetch(path, { headers, cache: 'no-store', signal });
    if (!response.ok) throw await refusal(response);
    const body = await read(response);
    state.answered = new Date();
    return body;
  } catch (error) {
    if (error instanceof Refused) throw error;
    reportTrouble('not answering', 'The node does not answer.');
    throw new Refused(0, 'the node does not answer');
  }
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  return new Refused(response.status, body?.error?.message ?? `the node answered ${response.status}`);
}

const getJson = (path, patience = ANSWER_MS) => request(path, (response) => response.json(), patience);

function reportTrouble(words, sentence) {
  if (state.trouble === words) return;
  const time = state.answered?.toLocaleTimeString('en-GB');
  const last = time ? `Last answer at ${time}.` : 'No answer yet since this page was opened.';
  setTrouble(words, `${sentence} ${last} Trying again every ${POLL_MS / 1000} seconds.`);
}

function setTrouble(words, text = '') {
  const banner = byId('offline-banner');
  state.trouble = words;
  banner.textContent = text;
  banner.hidden = words === null;
  shown.draw?.();
}

/** For requests behind a page that stands: the banner tells of a silent node, a 401 asks for the token. */
function tolerate(error) {
  if (error.status === 401) askForToken();
  else if (!(error instanceof Refused)) console.error(error);
}

// ---- Polling

async function takeSample() {
  const [health, stat] = await Promise.all(['health', 'stat'].map((name) => getJson(`/api/v1/${name}`, POLL_ANSWER_MS)));
  const counters = { sent: health.sent_bytes, received: health.received_bytes, hits: stat.cache?.hits, misses: stat.cache?.misses };
  const before = state.samples[state.samples.length - 1];
  const now = performance.now();
  // Two answers right after each other give no rate worth drawing.
  if (!before || now - before.at > POLL_MS / 4) addSample({ at: now, counters, rates: rates(before, counters, now) });
  Object.assign(state, { health, stat });
}

/** Per second, since the sample before; none across a gap or a restart of the node. */
function rates(before, counters, now) {
  if (!before?.counters) return {};
  const seconds = (now - before.at) / 1000;
  const each = Object.entries(counters).map(([name, value]) => [name, (value - before.counters[name]) / seconds]);
  return Object.fromEntries(each.filter(([, rate]) => rate >= 0));
}

function addSample(sample) {
  state.samples = [...state.samples.filter(({ at }) => at > sample.at - HISTORY_MS - POLL_MS), sample];
}

let polling = 0;

/** Only the newest loop goes on: a token may be asked for, and given, while an answer is awaited. */
async function poll(mine = ++polling) {
  try {
    await takeSample();
    setTrouble(null);
    state.polls += 1;
    if (shown.unfinished) show();
    else await shown.refresh?.();
  } catch (error) {
    if (mine !== polling) return;
    addSample({ at: performance.now(), counters: null, rates: {} });
    shown.draw?.();
    if (error.status >= 500) reportTrouble('answering with errors', `The node reports an error: ${visible(error.message)}.`);
    tolerate(error);
  }
  if (mine === polling) setTimeout(poll, POLL_MS, mine);
}

// ---- Routes

let shown = {};
let showing = 0;

function parseRoute(hash) {
  const [, kind, rest] = /^#\/(?:(key|version)\/(.+))?$/.exec(hash || '#/') ?? [null, 'unknown'];
  if (kind === undefined) return { kind: 'overview' };
  try {
    const name = decodeURIComponent(rest);
    const at = name.lastIndexOf('@');
    if (kind === 'key') return { kind, key: name };
    if (kind === 'version' && at > 0) return { kind, key: name.slice(0, at), version: name.slice(at + 1) };
  } catch {
    // A hash that is not valid percent-encoding names nothing.
  }
  return { kind: 'unknown' };
}

const keyLink = (key, text = visible(key)) => h('a', { href: `#/key/${segments(key)}` }, text);
const versionLink = (key, version, text = `${visible(key)}@${version}`) => h('a', { href: `#/version/${segments(key)}@${version}` }, text);

/** Loads the view that the address names, unless another one is asked for meanwhile. */
async function show(moveFocus = false) {
  const serial = ++showing;
  const route = parseRoute(location.hash);
  shown = {};
  byId('crumbs').replaceChildren(...crumbs(route));
  main.replaceChildren(note('Loading…'));
  main.setAttribute('aria-busy', 'true');
  let view;
  try {
    view = await VIEWS[route.kind](route);
  } catch (error) {
    view = failure(error, route);
  }
  if (serial !== showing || !view) return;
  shown = view;
  main.removeAttribute('aria-busy');
  document.title = `${view.title} · caskad node`;
  main.replaceChildren(...view.content);
  if (moveFocus) (main.querySelector('h1') ?? main).focus();
}

function crumbs({ kind, key, version }) {
  const current = (text) => h('span', { 'aria-current': 'page' }, text);
  const steps = [kind === 'overview' ? current('Overview') : h('a', { href: '#/' }, 'Overview')];
  if (kind === 'key') steps.push(current(visible(key)));
  if (kind === 'version') steps.push(keyLink(key), current(`@${visible(version)}`));
  return steps.map((step) => h('li', {}, step));
}

const heading = (text, attributes = {}) => h('h1', { tabindex: -1, ...attributes }, text);

function failure(error, route) {
  if (error.status === 401) return askForToken();
  if (error.status === 404) return notFound(route, error.message);
  if (error.status === 0) {
    const wait = h('p', {}, 'This page fills in by itself as soon as the node answers.');
    return { ...message('No answer', {}, heading('No answer'), wait), unfinished: true };
  }
  if (!(error instanceof Refused)) console.error(error);
  const again = h('button', { type: 'button', click: () => show() }, 'Try again');
  return message('Error', { role: 'alert' }, heading('That did not work'), h('p', { class: 'name' }, visible(error.message)), again);
}

const message = (title, attributes, ...content) => ({ title, content: [h('div', { class: 'panel message', ...attributes }, content)] });

function notFound({ kind, key, version }, detail = null) {
  const names = { key: `No key named ${visible(key)}`, version: `No version ${visible(key)}@${visible(version)}` };
  const others = kind === 'version' && [keyLink(key, `All versions of ${visible(key)}`), ' · '];
  const back = h('p', {}, others, h('a', { href: '#/' }, 'Back to the overview'));
  const said = detail && h('p', { class: 'muted name' }, visible(detail));
  return message('Not found', { 'data-testid': 'not-found' }, heading(names[kind] ?? 'No such page'), said, back);
}

/** Takes the place of every view until a token is given; polling starts again with it. */
function askForToken() {
  if (state.locked) return;
  state.locked = true;
  showing += 1;
  polling += 1;
  const refused = state.token !== null;
  setToken(null);
  // A header cannot carry more than these characters.
  const rule = { required: true, pattern: '\\s*[!-~]+\\s*', title: 'printable ASCII, no blanks inside' };
  const input = h('input', { id: 'token', type: 'password', autocomplete: 'off', ...rule });
  const submit = (event) => {
    event.preventDefault();
    state.locked = false;
    setToken(input.value.trim());
    show(true);
    poll();
  };
  const label = h('label', { for: 'token' }, 'Token');
  const form = h('form', { submit, 'data-testid': 'token-form' }, label, input, h('button', {}, 'Continue'));
  const why = refused ? 'The node refused that token.' : 'On this address the node answers only with its token.';
  shown = {};
  main.removeAttribute('aria-busy');
  const kept = h('p', { class: 'muted' }, 'It is kept until this tab is closed.');
  main.replaceChildren(...message('', {}, heading('A token is needed'), h('p', { role: 'alert' }, why), form, kept).content);
  input.focus();
}

function setToken(token) {
  state.token = token;
  if (token === null) sessionStorage.removeItem(TOKEN_NAME);
  else sessionStorage.setItem(TOKEN_NAME, token);
  byId('forget-token').hidden = token === null;
}

// ---- Overview

async function overview() {
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
  return h('dl', { class: 'facts five' },
    fact('Status', h('span', { class: `status ${level}`, 'data-testid': 'health-status' }, words)),
    fact('Uptime', duration(health.uptime_seconds)),
    fact('Peers', `${count(health.connected_peers)} connected, ${count(health.known_peers)} known`),
    fact('Under-replicated chunks', alarm(health.under_replicated)),
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

const addressLines = (addresses) => (addresses.length > 0 ? addresses.map((address) => h('div', {}, code(address))) : DASH);

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

function watchWidth(element, draw) {
  let width = 0;
  new ResizeObserver(() => {
    // No width: out of the page, or its window is folded away.
    if (element.clientWidth === 0 || element.clientWidth === width) return;
    width = element.clientWidth;
    draw();
  }).observe(element);
}

const swatch = (name) => h('span', { class: `swatch ${name}`, 'aria-hidden': 'true' });

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

// ---- Ring of peers

const PEER_KINDS = { own: 'this node', connected: 'connected', known: 'known, not connected', banned: 'banned: sent wrong chunks' };
const peerKind = (peer) => (peer.banned ? 'banned' : peer.connected ? 'connected' : 'known');

function peerRing([ownId, ownPlace, peers]) {
  const own = { peer_id: ownId, place: ownPlace, kind: 'own', addresses: [] };
  const all = [own, ...peers.map((peer) => ({ ...peer, kind: peerKind(peer) }))];
  const rows = [...all].sort((a, b) => a.place - b.place).map((peer) => row([
    named(code(peer.peer_id)), fixed(h('span', { class: 'legend-cell' }, markIcon(peer.kind), PEER_KINDS[peer.kind])),
    num(peer.place.toFixed(4)), fixed(addressLines(peer.addresses)),
  ]));
  const titles = ['Peer', 'State', num('Place'), 'Addresses'];
  return h('div', { class: 'ring-layout' }, ringDrawing(all), table('Peers on the keyspace ring', titles, rows, {}, 'tall'));
}

function ringDrawing(peers) {
  const [centreX, centreY, radius] = [170, 140, 112];
  const point = (place, r) => [centreX + r * Math.sin(place * 2 * Math.PI), centreY - r * Math.cos(place * 2 * Math.PI)];
  const own = point(peers[0].place, radius);
  const ticks = [0, 0.25, 0.5, 0.75].map((place) => {
    const [[x1, y1], [x2, y2], [x, y]] = [point(place, radius - 6), point(place, radius + 6), point(place, radius - 23)];
    const label = s('text', { class: 'faint', x, y: y + 4, 'text-anchor': 'middle' }, String(place));
    return [s('line', { class: 'tick', x1, y1, x2, y2 }), label];
  });
  const links = peers.filter((peer) => peer.kind === 'connected').map((peer) => {
    const [x2, y2] = point(peer.place, radius);
    return s('line', { class: 'link', x1: own[0], y1: own[1], x2, y2 });
  });
  // This node last: nothing may cover it.
  const marks = [...peers].reverse().map((peer) => {
    const title = `${visible(peer.peer_id)}: ${PEER_KINDS[peer.kind]}, at ${peer.place.toFixed(4)}`;
    return mark(peer.kind, ...point(peer.place, radius), title);
  });
  const names = withRoom(peers).map((peer) => {
    const [x, y] = point(peer.place, radius + 15);
    const anchor = Math.abs(x - centreX) < 30 ? 'middle' : x > centreX ? 'start' : 'end';
    return s('text', { x, y: y + 4, 'text-anchor': anchor }, peer.kind === 'own' ? 'here' : `…${visible(peer.peer_id).slice(-4)}`);
  });
  const label = `${plural(peers.length - 1, 'peer')} and this node on the ring; the table lists them`;
  return s('svg', { viewBox: '0 0 340 280', role: 'img', 'aria-label': label, 'data-testid': 'ring' },
    links, s('circle', { class: 'orbit', cx: centreX, cy: centreY, r: radius }), ticks, marks, names);
}

/** The peers whose names do not run into one that is written already. */
function withRoom(peers) {
  const apart = (a, b) => Math.min(Math.abs(a.place - b.place), 1 - Math.abs(a.place - b.place));
  return peers.reduce((named, peer) => (named.every((other) => apart(peer, other) > 0.03) ? [...named, peer] : named), []);
}

/** The shape tells as much as the colour: diamond here, disc connected, open ring known, cross banned. */
function mark(kind, x, y, title) {
  const shapes = {
    own: () => s('path', { d: `M${x} ${y - 9}L${x + 9} ${y}L${x} ${y + 9}L${x - 9} ${y}Z` }),
    connected: () => s('circle', { cx: x, cy: y, r: 7 }),
    known: () => s('circle', { cx: x, cy: y, r: 5 }),
    banned: () => s('path', { d: `M${x - 5} ${y - 5}L${x + 5} ${y + 5}M${x - 5} ${y + 5}L${x + 5} ${y - 5}` }),
  };
  const shape = shapes[kind]();
  shape.setAttribute('class', `mark ${kind}`);
  if (title) shape.append(s('title', {}, title));
  return shape;
}

const markIcon = (kind) => s('svg', { viewBox: '0 0 20 20', 'aria-hidden': 'true' }, mark(kind, 10, 10));

// ---- Moving plots

const rounded = (value) => (value >= 10 ? count(Math.round(value)) : String(Math.round(value * 10) / 10));
const binaryCeiling = (value) => 2 ** Math.ceil(Math.log2(Math.max(value, 1024)));

function decimalCeiling(value) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(value, 4)));
  return unit * [1, 2, 4, 10].find((step) => step * unit >= value);
}

function plot(testId, title, names, format, ceiling) {
  const legend = h('ul', { class: 'legend' });
  const drawing = s('svg', { role: 'img' });
  const node = panel(title, legend, h('div', { class: 'plot', 'data-testid': testId }, drawing));
  const strokes = ['first', 'second'];
  const draw = () => {
    const latest = state.samples[state.samples.length - 1]?.rates ?? {};
    const words = names.map((name) => `${name} ${latest[name] === undefined ? DASH : format(latest[name])}`);
    legend.replaceChildren(...words.map((text, i) => h('li', {}, strokeSample(strokes[i]), text)));
    drawing.setAttribute('aria-label', `${title}, last three minutes. Now: ${words.join(', ')}`);
    const frame = { left: 76, top: 8, width: Math.max(120, drawing.clientWidth - 84), height: 116 };
    drawing.replaceChildren(...plotLines(frame, names, format, ceiling, strokes));
  };
  watchWidth(drawing, draw);
  return { node, draw };
}

function strokeSample(stroke) {
  return s('svg', { class: `key ${stroke}`, viewBox: '0 0 26 4', 'aria-hidden': 'true' }, s('line', { x1: 0, y1: 2, x2: 26, y2: 2 }));
}

function plotLines(frame, names, format, ceiling, strokes) {
  const highest = Math.max(0, ...state.samples.flatMap(({ rates: all }) => names.map((name) => all[name] ?? 0)));
  const top = ceiling(highest);
  const now = performance.now();
  const [right, bottom] = [frame.left + frame.width, frame.top + frame.height];
  const x = (at) => right - ((now - at) / HISTORY_MS) * frame.width;
  const y = (value) => bottom - (value / top) * frame.height;
  const grid = [0, top / 2, top].map((value) => [
    s('line', { class: 'grid', x1: frame.left, x2: right, y1: y(value), y2: y(value) }),
    s('text', { class: 'faint', x: frame.left - 7, y: y(value) + 4, 'text-anchor': 'end' }, format(value)),
  ]);
  const times = [[frame.left, 'start', '3 min ago'], [right, 'end', 'now']];
  const labels = times.map(([at, anchor, text]) => s('text', { class: 'faint', x: at, y: bottom + 17, 'text-anchor': anchor }, text));
  const lines = names.map((name, i) => s('path', { class: `series ${strokes[i]}`, d: brokenLine(name, x, y, frame.left) }));
  return [...grid, ...labels, ...lines].flat();
}

/** A line with a gap wherever the node gave no rate. */
function brokenLine(name, x, y, left) {
  let pen = 'M';
  return state.samples.map(({ at, rates: all }) => {
    if (all[name] === undefined || x(at) < left) {
      pen = 'M';
      return '';
    }
    const step = `${pen}${x(at).toFixed(1)} ${y(all[name]).toFixed(1)}`;
    pen = 'L';
    return step;
  }).join('');
}

// ---- A key

async function keyView({ key }) {
  const versions = await getJson(`/api/v1/versions/${segments(key)}`);
  const rows = [...versions].reverse().map((version) => row([
    versionLink(key, version.version, `@${version.version}`), labelTags(version.labels), num(bytes(version.bytes)),
    num([bytes(version.stored_bytes), meter(version.stored_bytes, version.bytes)]),
    num(percent(version.stored_bytes, version.bytes)), num(`${count(version.new_chunks)} of ${count(version.chunks)}`),
    fixed(instant(version.created)), version.pinned ? 'pinned' : DASH, fixed(instant(version.expires)), longName(metaWords(version.meta)),
  ], { 'data-testid': 'version-row' }));
  const titles = ['Version', 'Labels', num('Payload'), num('Stored for it'), num('Of payload'), num('New chunks'),
    'Created (UTC)', 'Pinned', 'Expires (UTC)', 'Meta'];
  const [payload, stored] = ['bytes', 'stored_bytes'].map((field) => versions.reduce((sum, version) => sum + version[field], 0));
  const kept = `${bytes(payload)} of payload kept in ${bytes(stored)} (${percent(stored, payload)})`;
  const summary = `${plural(versions.length, 'version')}: ${kept}`;
  const listed = table(`Versions of ${visible(key)}`, titles, rows, { 'data-testid': 'versions-table' });
  return { title: visible(key), content: [heading(visible(key)), panel('Versions', aside(summary), listed)] };
}

const labelTags = (labels) => (labels.length > 0 ? labels.map((label) => h('span', { class: 'tag' }, visible(label))) : DASH);
const metaWords = (meta) => Object.entries(meta).map(([name, value]) => `${visible(name)}=${visible(value)}`).join(', ') || DASH;

function meter(part, whole) {
  const fill = h('span');
  fill.style.width = `${Math.min(100, whole > 0 ? (part / whole) * 100 : 0)}%`;
  return h('span', { class: 'meter', 'aria-hidden': 'true' }, fill);
}

// ---- A version

async function versionView({ key, version: asked }) {
  const version = await getJson(`/api/v1/show/${segments(key)}@${encodeURIComponent(asked)}`);
  const name = `${visible(key)}@${version.version}`;
  const items = itemsOf(version);
  const tensors = tensorTable(items, version);
  const first = version.previous === null;
  const changes = h('div', {}, note(first ? 'No earlier version exists: there is nothing to compare it with.' : 'Loading…'));
  if (!first) fillChanges(changes, key, version);
  const content = [
    heading(name),
    panel('Version', !first && h('span', {}, 'Version before: ', versionLink(key, version.previous)), versionFacts(version)),
    panel('Files', aside(plural(version.files.length, 'file')), fileTable(version)),
    treemapPanel(version, items, tensors.reveal),
    panel('Changes since the version before', null, changes),
    tensors.node,
  ];
  return { title: name, content };
}

function versionFacts(version) {
  return h('dl', { class: 'facts four' },
    fact('Payload', bytes(version.bytes)),
    fact('Stored for it', [bytes(version.stored_bytes), meter(version.stored_bytes, version.bytes)]),
    fact('Of payload', percent(version.stored_bytes, version.bytes)),
    fact('New chunks', `${count(version.new_chunks)} of ${count(version.chunks)}`),
    fact('Created (UTC)', instant(version.created)),
    fact('Expires (UTC)', version.expires ? instant(version.expires) : 'never'),
    fact('Pinned', version.pinned ? 'yes' : 'no'),
    fact('Labels', labelTags(version.labels)),
    fact('Meta', h('span', { class: 'name' }, metaWords(version.meta)), true),
    fact(`Manifest (${bytes(version.manifest_bytes)})`, code(version.manifest), true));
}

function fileTable(version) {
  const rows = version.files.map((file) => row([
    named([visible(file.path), file.target !== undefined && aside(` → ${visible(file.target)}`)]),
    file.kind === 'file' ? downloadLink(version, file.path) : file.kind,
    num(bytes(file.bytes)), num(file.inline ? 'in the manifest' : bytes(file.stored_bytes)),
    num(version.previous === null ? DASH : percent(file.shared_bytes, file.bytes)),
    num(count(file.segments.length)), longName(codecWords(file.codecs)),
  ]));
  const titles = ['Path', 'Content', num('Bytes'), num('Its chunks take'), num('Shared'), num('Tensors'), 'Encodings'];
  return table('Files', titles, rows, {}, 'tall');
}

/** A plain link cannot carry the token: with one, the file is fetched and handed to the browser as a download. */
function downloadLink(version, path) {
  const name = path.split('/').pop();
  const link = h('a', { href: blobPath(version, path), download: name });
  const say = (words) => link.replaceChildren(words, h('span', { class: 'quiet' }, ` ${visible(path)}`));
  let busy = false;
  link.addEventListener('click', async (event) => {
    if (!state.token) return;
    event.preventDefault();
    if (busy) return;
    busy = true;
    say('Downloading…');
    say(await downloadWithToken(link.href, name).then(() => 'Download', () => 'Failed: try again'));
    busy = false;
  });
  say('Download');
  return link;
}

async function downloadWithToken(path, name) {
  const url = URL.createObjectURL(await request(path, (response) => response.blob()));
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

// ---- Treemap

const SMALLEST_CELL = 90;
const FILE_TITLE = 17;
const CHARACTER = 6.7;

/** What a version is made of, in its order: tensors, what is left of their files, and files without tensors. */
function itemsOf(version) {
  return version.files.filter((file) => file.kind === 'file').flatMap((file) => {
    if (file.segments.length === 0) return [{ ...file, file: file.path, name: file.path, whole: true }];
    const sum = (field) => file.segments.reduce((total, segment) => total + segment[field], 0);
    const left = Math.max(0, file.bytes - sum('bytes'));
    const shared = Math.min(left, Math.max(0, file.shared_bytes - sum('shared_bytes')));
    const outside = { file: file.path, name: '(outside its tensors)', bytes: left, shared_bytes: shared, codecs: {}, outside: true };
    return [...file.segments.map((segment) => ({ ...segment, file: file.path })), ...(left > 0 ? [outside] : [])];
  });
}

/** Lays items out by bytes in rows that stay as square as they can (Bruls, Huizing and van Wijk). */
function squarify(items, box, smallest) {
  // Nothing is too small to be pointed at.
  const weigh = (item) => Math.max(item.bytes, smallest);
  const perByte = (box.width * box.height) / items.reduce((sum, item) => sum + weigh(item), 0);
  const placed = [];
  let rest = box;
  let line = [];
  let area = 0;
  const worst = (sum, largest, least, side) => Math.max((side * side * largest) / (sum * sum), (sum * sum) / (side * side * least));
  const flush = () => {
    rest = placeLine(line, area, rest, placed);
    [line, area] = [[], 0];
  };
  for (const item of [...items].sort((a, b) => b.bytes - a.bytes)) {
    const part = { item, size: weigh(item) * perByte };
    const side = Math.min(rest.width, rest.height);
    const [first, last] = [line[0], line[line.length - 1]];
    if (first && worst(area + part.size, first.size, part.size, side) > worst(area, first.size, last.size, side)) flush();
    line.push(part);
    area += part.size;
  }
  if (line.length > 0) flush();
  return placed;
}

/** Puts one row along the shorter side and returns the space that is left. */
function placeLine(line, area, rest, placed) {
  const upright = rest.width >= rest.height;
  const thickness = area / (upright ? rest.height : rest.width);
  let offset = 0;
  for (const { item, size } of line) {
    const length = size / thickness;
    placed.push(upright
      ? { item, x: rest.x, y: rest.y + offset, width: thickness, height: length }
      : { item, x: rest.x + offset, y: rest.y, width: length, height: thickness });
    offset += length;
  }
  return upright
    ? { ...rest, x: rest.x + thickness, width: Math.max(0, rest.width - thickness) }
    : { ...rest, y: rest.y + thickness, height: Math.max(0, rest.height - thickness) };
}

/** Neighbours too small to see become one cell, as many as it takes to see that. */
function withGroups(items, smallest) {
  const large = items.filter((item) => item.bytes >= smallest);
  const groups = [[]];
  let filled = 0;
  for (const item of items.filter(({ bytes: size }) => size > 0 && size < smallest)) {
    if (filled >= smallest) {
      groups.push([]);
      filled = 0;
    }
    groups[groups.length - 1].push(item);
    filled += item.bytes;
  }
  return [...large, ...groups.filter((group) => group.length > 0).map((group) => (group.length === 1 ? group[0] : merged(group)))];
}

function merged(group) {
  const [{ file }] = group;
  const oneFile = group.every((item) => item.file === file);
  const total = { file: oneFile ? file : 'several files', name: `${count(group.length)} small parts`, codecs: {}, members: group };
  for (const field of ['bytes', 'stored_bytes', 'shared_bytes', 'chunks']) {
    total[field] = group.reduce((sum, item) => sum + (item[field] ?? 0), 0);
  }
  for (const item of group) {
    for (const [name, n] of Object.entries(item.codecs)) total.codecs[name] = (total.codecs[name] ?? 0) + n;
  }
  return total;
}

/** Files first, their parts inside them. */
function layOut(items, width, height) {
  const files = new Map();
  for (const item of items) {
    if (!files.has(item.file)) files.set(item.file, []);
    files.get(item.file).push(item);
  }
  const box = (name, parts) => ({ name, parts, bytes: parts.reduce((sum, part) => sum + part.bytes, 0) });
  const boxes = [...files].map(([name, parts]) => box(name, parts)).filter((file) => file.bytes > 0);
  const smallest = (SMALLEST_CELL * boxes.reduce((sum, file) => sum + file.bytes, 0)) / (width * height);
  const tiny = boxes.filter((file) => file.bytes < smallest);
  const large = boxes.filter((file) => file.bytes >= smallest);
  const drawn = tiny.length > 0 ? [...large, box(plural(tiny.length, 'small file'), tiny.flatMap(({ parts }) => parts))] : large;
  const cells = [];
  const titles = [];
  for (const { item: file, ...place } of squarify(drawn, { x: 0, y: 0, width, height }, smallest)) {
    const titled = drawn.length > 1 && file.parts.length > 1 && place.height > 3 * FILE_TITLE && place.width > 60;
    if (titled) titles.push({ name: file.name, ...place });
    const inner = titled ? { ...place, y: place.y + FILE_TITLE, height: place.height - FILE_TITLE } : place;
    cells.push(...squarify(withGroups(file.parts, smallest), inner, smallest));
  }
  return { cells, titles };
}

let colourMode = 'encoding';

function treemapPanel(version, items, reveal) {
  const comparable = version.previous !== null;
  const label = 'Treemap, area by bytes. Arrow keys move between cells, Enter goes to the row in the table.';
  const drawing = s('svg', { role: 'group', 'aria-label': label, 'data-testid': 'treemap' });
  const tip = h('div', { class: 'tip', role: 'tooltip', hidden: true });
  const box = h('div', { class: 'treemap' }, drawing, tip);
  const legend = h('ul', { class: 'legend' });
  const mode = () => (comparable ? colourMode : 'encoding');
  let cells = [];

  const radio = (value, words, usable) => h('label', {}, h('input', {
    type: 'radio', name: 'color-mode', value, checked: value === mode(), disabled: !usable,
    change: () => {
      colourMode = value;
      paint();
    },
  }), words);
  const switcher = h('fieldset', { 'data-testid': 'color-mode' }, h('legend', {}, 'Colour by'), radio('encoding', 'encoding', true),
    radio('change', comparable ? `change since @${version.previous}` : 'change (there is no version before)', comparable));

  const paint = () => {
    for (const cell of cells) cell.rect.setAttribute('class', cellClass(cell.item, mode()));
    legend.replaceChildren(...legendEntries(items, mode()));
  };
  const draw = () => {
    const width = Math.floor(box.clientWidth);
    const height = Math.round(Math.min(560, Math.max(340, width * 0.45)));
    const plan = layOut(items, width, height);
    assemble(drawing, { viewBox: `0 0 ${width} ${height}`, width, height }, []);
    cells = plan.cells.map((cell) => drawCell(cell, comparable));
    drawing.replaceChildren(...plan.titles.map(fileTitle), ...cells.map(({ node }) => node));
    cells[0]?.node.setAttribute('tabindex', 0);
    paint();
  };
  listen(box, tip, () => cells, reveal, comparable);
  const drawable = items.some((item) => item.bytes > 0);
  const body = drawable ? [switcher, box] : [note('There are no bytes to draw.')];
  if (drawable) watchWidth(box, draw);
  return panel('What it is made of', drawable && legend, body);
}

function cellClass(item, mode) {
  if (mode === 'change') return `share-${shareClass(item)}`;
  const codec = dominantCodec(item);
  return codec === null ? 'none' : codecClass(codec);
}

function legendEntries(items, mode) {
  const used = new Set(items.filter((item) => item.bytes > 0).map((item) => cellClass(item, mode)));
  const shares = SHARES.map((words, i) => [`share-${i}`, words]);
  const codecs = [...CODECS.map((name) => [name, name]), ['other', 'another encoding'], ['none', 'not known or in the manifest']];
  return (mode === 'change' ? shares : codecs).filter(([name]) => used.has(name)).map(([name, words]) => h('li', {}, swatch(name), words));
}

function drawCell({ item, x, y, width, height }, comparable) {
  const rect = s('rect', { x, y, width, height });
  const fits = Math.floor((width - 10) / CHARACTER);
  const label = (text, line) => s('text', { x: x + 5, y: y + 14 + 14 * line }, text);
  const labels = [
    height >= 18 && fits >= 4 && label(tail(visible(item.name), fits), 0),
    height >= 34 && fits >= 9 && label(bytes(item.bytes), 1),
  ];
  const facts = itemFacts(item, comparable).join('. ');
  const node = s('g', { class: 'cell', role: 'button', tabindex: -1, 'aria-label': facts, 'data-testid': 'treemap-cell' }, rect, labels);
  return { node, rect, item, x, y, width, height };
}

function fileTitle({ name, x, y, width }) {
  return s('text', { class: 'file-title', x: x + 4, y: y + 12 }, tail(visible(name), Math.floor((width - 8) / CHARACTER)));
}

/** The end of a name tells tensors apart better than its start. */
function tail(text, fits) {
  if (text.length <= fits) return text;
  const telling = text.replace(/\.weight$/, '');
  return telling.length <= fits ? telling : `…${telling.slice(1 - fits)}`;
}

function itemFacts(item, comparable) {
  const share = percent(item.stored_bytes, item.bytes);
  const kept = item.inline ? 'in the manifest' : `${plural(item.chunks, 'chunk')}, which take ${bytes(item.stored_bytes)} (${share})`;
  return [
    visible(item.name),
    item.members && `${visible(item.members[0].name)} and others`,
    !item.whole && visible(item.file),
    item.dtype && `${visible(item.dtype)} [${item.shape.join(', ')}]`,
    bytes(item.bytes),
    !item.outside && kept,
    Object.keys(item.codecs).length > 0 && codecWords(item.codecs),
    comparable && `${percent(item.shared_bytes, item.bytes)} shared with the version before`,
  ].filter(Boolean);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** The nearest cell on that side; sideways distance counts twice, so that a row is followed. */
function neighbour(cells, from, [dx, dy]) {
  const middle = (cell) => [cell.x + cell.width / 2, cell.y + cell.height / 2];
  const [fx, fy] = middle(from);
  let best = { distance: Infinity, cell: from };
  for (const cell of cells) {
    const [x, y] = middle(cell);
    const along = (x - fx) * dx + (y - fy) * dy;
    const distance = along + 2 * Math.abs((x - fx) * dy + (y - fy) * dx);
    if (along > 0.5 && distance < best.distance) best = { distance, cell };
  }
  return best.cell;
}

/** On the box, not on the drawing: a drawing with focus handlers becomes a tab stop of its own in some browsers. */
function listen(box, tip, cellsNow, reveal, comparable) {
  const cellOf = (event) => cellsNow().find(({ node }) => node === event.target.closest('.cell'));
  const hide = () => { tip.hidden = true; };
  const explain = (event) => {
    const cell = cellOf(event);
    if (cell) placeTip(tip, box, cell, comparable);
    else hide();
  };
  const choose = (event) => {
    const cell = cellOf(event);
    if (cell) reveal(cell.item.members?.[0] ?? cell.item);
  };
  box.addEventListener('pointerover', explain);
  box.addEventListener('pointerleave', hide);
  box.addEventListener('focusin', explain);
  box.addEventListener('focusout', hide);
  box.addEventListener('click', choose);
  box.addEventListener('keydown', (event) => {
    const cell = cellOf(event);
    if (event.key === 'Escape') hide();
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      choose(event);
    }
    if (!cell || !ARROWS[event.key]) return;
    event.preventDefault();
    moveFocus(cell, neighbour(cellsNow(), cell, ARROWS[event.key]));
  });
}

/** One cell at a time is a tab stop: Tab leaves the drawing, however many cells it has. */
function moveFocus(from, to) {
  from.node.setAttribute('tabindex', -1);
  to.node.setAttribute('tabindex', 0);
  to.node.focus();
}

function placeTip(tip, box, cell, comparable) {
  const [name, ...facts] = itemFacts(cell.item, comparable);
  tip.replaceChildren(h('strong', { class: 'name' }, name), ...facts.map((text) => h('span', {}, text)));
  tip.hidden = false;
  const below = cell.y + cell.height + 6;
  const top = below + tip.offsetHeight <= box.clientHeight ? below : Math.max(0, cell.y - tip.offsetHeight - 6);
  tip.style.left = `${Math.max(0, Math.min(cell.x, box.clientWidth - tip.offsetWidth))}px`;
  tip.style.top = `${top}px`;
}

// ---- Table of tensors

const severalFiles = (version) => version.files.length > 1;
const hasPrevious = (version) => version.previous !== null;
const shared = (item) => percent(item.shared_bytes, item.bytes);
const keptBytes = (item) => (item.inline ? 'in the manifest' : bytes(item.stored_bytes));
const TENSOR_COLUMNS = [
  { title: 'Name', class: 'name long', sort: (item) => item.name, text: (item) => visible(item.name) },
  { title: 'Bytes', class: 'num', sort: (item) => item.bytes, text: (item) => bytes(item.bytes) },
  { title: 'Its chunks take', class: 'num', sort: (item) => item.stored_bytes ?? -1, text: keptBytes },
  { title: 'Shared', class: 'num', sort: (item) => item.shared_bytes / (item.bytes || 1), text: shared, useful: hasPrevious },
  { title: 'Type', sort: (item) => item.dtype ?? '', text: (item) => visible(item.dtype ?? DASH) },
  { title: 'Shape', class: 'fixed', sort: (item) => item.shape?.length ?? 0, text: (item) => item.shape?.join(' × ') || DASH },
  { title: 'Chunks', class: 'num', sort: (item) => item.chunks ?? -1, text: (item) => count(item.chunks) },
  { title: 'Bases', class: 'num', sort: (item) => item.bases ?? -1, text: (item) => count(item.bases) },
  { title: 'Encodings', class: 'fixed', sort: (item) => codecWords(item.codecs), text: (item) => codecWords(item.codecs) },
  { title: 'File', class: 'clip', sort: (item) => item.file, text: (item) => visible(item.file), useful: severalFiles },
];

/** The facts of the treemap as a table that sorts; `reveal` brings the row of one item into view. */
function tensorTable(items, version) {
  const columns = TENSOR_COLUMNS.filter((column) => column.useful?.(version) ?? true);
  let order = [...items];
  let limit = MOST_ROWS;
  const body = h('tbody');
  const more = h('button', { type: 'button', class: 'more', click: () => fill(order.length) });
  const rows = new Map();
  const fill = (most) => {
    limit = most;
    rows.clear();
    for (const item of order.slice(0, limit)) {
      rows.set(item, row(columns.map((column) => classed(column.class)(column.text(item))), { tabindex: -1 }));
    }
    body.replaceChildren(...rows.values());
    more.hidden = limit >= order.length;
    more.textContent = `Show all ${count(order.length)}`;
  };
  const heads = columns.map((column) => h('th', { scope: 'col', class: column.class === 'num' && 'num' },
    h('button', { type: 'button', click: (event) => sortBy(column, event.currentTarget.parentNode) }, column.title)));
  const sortBy = (column, head) => {
    const descending = head.getAttribute('aria-sort') === null ? column.class === 'num' : head.getAttribute('aria-sort') === 'ascending';
    for (const other of heads) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
    const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    order = [...items].sort((a, b) => compare(column.sort(a), column.sort(b)) * (descending ? -1 : 1));
    fill(limit);
  };
  const reveal = (item) => {
    if (!rows.has(item)) fill(order.length);
    rows.get(item)?.scrollIntoView({ block: 'center' });
    rows.get(item)?.focus({ preventScroll: true });
  };
  fill(limit);
  const content = h('table', {}, h('caption', { class: 'quiet' }, 'Tensors and other parts'), h('thead', {}, h('tr', {}, heads)), body);
  const side = aside(`${count(items.length)}, in the order of the files; the headings sort`);
  return { node: panel('Tensors and other parts', side, scrollBox('Tensors and other parts', '', content), more), reveal };
}

// ---- Changes between versions

async function fillChanges(node, key, version) {
  const name = (number) => encodeURIComponent(`${key}@${number}`);
  try {
    const diff = await getJson(`/api/v1/diff?from=${name(version.previous)}&to=${name(version.version)}`);
    node.replaceChildren(...changesSummary(diff));
  } catch (error) {
    tolerate(error);
    node.replaceChildren(h('p', {}, `The comparison with @${version.previous} failed: ${visible(error.message)}`));
  }
}

function changesSummary(diff) {
  const facts = h('dl', { class: 'facts' },
    fact('Added', count(diff.added.length)),
    fact('Removed', count(diff.removed.length)),
    fact('Changed', count(diff.changed.length)),
    fact('Unchanged', count(diff.unchanged)),
    fact('Shared', `${bytes(diff.shared_bytes)} (${percent(diff.shared_bytes, diff.bytes_b)})`),
    fact('Payload before and now', `${bytes(diff.bytes_a)}, ${bytes(diff.bytes_b)}`));
  const lists = [['Changed', diff.changed], ['Added', diff.added], ['Removed', diff.removed]].filter(([, entries]) => entries.length > 0);
  return [facts, ...lists.map(([title, entries]) => changeList(title, entries))];
}

/** The costliest first: they are what the change is about. */
function changeList(title, entries) {
  const costliest = [...entries].sort((a, b) => b.stored_bytes - a.stored_bytes).slice(0, MOST_ROWS);
  const rows = costliest.map((entry) => row([
    longName(visible(entry.tensor ?? entry.file)), num(bytes(entry.bytes)), num(bytes(entry.stored_bytes)),
    num(shared(entry)), fixed(codecWords(entry.codecs)), clipped(visible(entry.file)),
  ]));
  const which = entries.length > MOST_ROWS ? `the ${MOST_ROWS} costliest of ${count(entries.length)}` : count(entries.length);
  const titles = ['Name', num('Bytes'), num('Its chunks take'), num('Shared'), 'Encodings', 'File'];
  return h('details', {}, h('summary', {}, `${title}: ${which}`), table(title, titles, rows, {}, 'tall'));
}

// ---- Start

const VIEWS = { overview, key: keyView, version: versionView, unknown: (route) => notFound(route) };

byId('skip').addEventListener('click', (event) => {
  // The address belongs to the routes: the link must not change it.
  event.preventDefault();
  main.focus();
});
byId('forget-token').addEventListener('click', () => {
  setToken(null);
  location.reload();
});
byId('forget-token').hidden = state.token === null;
window.addEventListener('hashchange', () => state.locked || show(true));
show();
poll();
