// Elements, and the words for values. Keys, paths, tensor names and metadata come from strangers: they reach the page as text nodes and
// attribute values only, never as markup.

const SVG = 'http://www.w3.org/2000/svg';
export const MOST_ROWS = 200;
// Longest names first: `planes-rans-…` is not `planes`.
export const CODECS = ['planes-rans', 'delta-ctx', 'planes', 'delta', 'patch', 'zstd', 'raw'];
export const SHARES = ['new or all changed', 'under 25 % shared', '25 to 50 %', '50 to 75 %', '75 % and more', 'unchanged'];

export const byId = (id) => document.getElementById(id);
export const main = byId('main');

// ---- Elements

export function assemble(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const h = (tag, attributes = {}, ...children) => assemble(document.createElement(tag), attributes, children);
export const s = (tag, attributes = {}, ...children) => assemble(document.createElementNS(SVG, tag), attributes, children);

export const panel = (title, side, ...content) => h('section', { class: 'panel' }, h('header', {}, h('h2', {}, title), side), content);
export const code = (text) => h('code', { class: 'mono' }, visible(text));
export const fact = (label, value, wide = false) => h('div', { class: wide && 'wide' }, h('dt', {}, label), h('dd', {}, value));
export const aside = (text) => h('span', { class: 'muted' }, text);
export const note = (...content) => h('p', { class: 'note' }, content);
export const classed = (name) => (value) => ({ value, class: name });
export const [num, fixed, named, longName, clipped] = ['num', 'fixed', 'name', 'name long', 'clip'].map(classed);

/** A table in a box that scrolls by itself. A cell is text, an element, or `{value, class}`; the first of each row is its header. */
export function table(caption, titles, rows, attributes = {}, boxClass = '') {
  const head = h('tr', {}, titles.map((title) => h('th', { scope: 'col', class: title.class }, title.value ?? title)));
  const parts = [h('caption', { class: 'quiet' }, caption), h('thead', {}, head), h('tbody', {}, rows)];
  return scrollBox(caption, boxClass, h('table', attributes, parts));
}

export function scrollBox(label, boxClass, content) {
  return h('div', { class: `scroll ${boxClass}`, tabindex: 0, role: 'region', 'aria-label': label }, content);
}

export function row(cells, attributes = {}) {
  return h('tr', attributes, cells.map((cell, i) => {
    const boxed = cell !== null && typeof cell === 'object' && 'value' in cell && !(cell instanceof Node);
    return h(i === 0 ? 'th' : 'td', { scope: i === 0 && 'row', class: boxed && cell.class }, boxed ? cell.value : cell);
  }));
}

export function watchWidth(element, draw) {
  let width = 0;
  new ResizeObserver(() => {
    // No width: out of the page, or its window is folded away.
    if (element.clientWidth === 0 || element.clientWidth === width) return;
    width = element.clientWidth;
    draw();
  }).observe(element);
}

// ---- Words for values

export const DASH = '–';
export const count = (value) => (value === null || value === undefined ? DASH : value.toLocaleString('en'));
export const percent = (part, whole) => (whole > 0 && part !== null ? `${((part / whole) * 100).toFixed(1)} %` : DASH);
export const instant = (text) => (text ? h('time', { datetime: text }, text.replace('T', ' ').replace('Z', '')) : DASH);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  if (value < 1024) return `${Math.round(value)} B`;
  const power = Math.min(5, Math.floor(Math.log2(value) / 10));
  return `${(value / 1024 ** power).toFixed(1)} ${['KiB', 'MiB', 'GiB', 'TiB', 'PiB'][power - 1]}`;
}

export function duration(seconds) {
  const [d, hrs, min] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (d) return `${d} d ${hrs} h`;
  if (hrs) return `${hrs} h ${min} min`;
  return min ? `${min} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

/** Control, zero-width and direction-changing characters written out: a name cannot pass for another one. */
export function visible(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (c) => `\\u{${c.charCodeAt(0).toString(16)}}`);
}

export const codecClass = (name) => CODECS.find((known) => name === known || name.startsWith(`${known}-`)) ?? 'other';
export const codecWords = (codecs) => Object.entries(codecs).map(([name, n]) => `${visible(name)} ${count(n)}`).join(', ') || DASH;

export function dominantCodec(item) {
  const [first] = Object.entries(item.codecs).sort((a, b) => b[1] - a[1]);
  return first ? first[0] : null;
}

export function shareClass(item) {
  const share = item.bytes > 0 ? item.shared_bytes / item.bytes : 0;
  if (share <= 0) return 0;
  return share >= 1 ? 5 : 1 + Math.min(3, Math.floor(share * 4));
}

// ---- Links and other small parts

export const segments = (key) => key.split('/').map(encodeURIComponent).join('/');
export const keyLink = (key, text = visible(key)) => h('a', { href: `#/key/${segments(key)}` }, text);
export const versionLink = (key, version, text = `${visible(key)}@${version}`) => h('a', { href: `#/version/${segments(key)}@${version}` }, text);
export const heading = (text, attributes = {}) => h('h1', { tabindex: -1, ...attributes }, text);
export const addressLines = (addresses) => (addresses.length > 0 ? addresses.map((address) => h('div', {}, code(address))) : DASH);
export const swatch = (name) => h('span', { class: `swatch ${name}`, 'aria-hidden': 'true' });
