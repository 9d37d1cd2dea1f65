// A version as areas: its tensors by size, coloured by encoding or by what they share with the version before.

import {
  CODECS, SHARES, assemble, h, s, panel, note, watchWidth, count, percent, plural, bytes, visible, codecClass, codecWords, dominantCodec,
  shareClass, swatch,
} from './elements.js';

const SMALLEST_CELL = 90;
const FILE_TITLE = 17;
const CHARACTER = 6.7;

/** What a version is made of, in its order: tensors, what is left of their files, and files without tensors. */
export function itemsOf(version) {
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

export function treemapPanel(version, items, reveal) {
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
