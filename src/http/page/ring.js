// The ring of the keyspace, with the peers on it.

import { h, s, code, num, fixed, named, table, row, plural, visible, addressLines } from './elements.js';

const PEER_KINDS = { own: 'this node', connected: 'connected', known: 'known, not connected', banned: 'banned: sent wrong chunks' };
const peerKind = (peer) => (peer.banned ? 'banned' : peer.connected ? 'connected' : 'known');

const peerState = (peer) => `${PEER_KINDS[peer.kind]}${peer.relayed ? ' through a relay' : ''}`;

export function peerRing([ownId, ownPlace, peers]) {
  const own = { peer_id: ownId, place: ownPlace, kind: 'own', addresses: [] };
  const all = [own, ...peers.map((peer) => ({ ...peer, kind: peerKind(peer) }))];
  const rows = [...all].sort((a, b) => a.place - b.place).map((peer) => row([
    named(code(peer.peer_id)), fixed(h('span', { class: 'legend-cell' }, markIcon(peer.kind), peerState(peer))),
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
