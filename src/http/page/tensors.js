// The same as a table that sorts.

import { MOST_ROWS, h, panel, aside, classed, scrollBox, row, DASH, count, percent, bytes, visible, codecWords } from './elements.js';

const severalFiles = (version) => version.files.length > 1;
const hasPrevious = (version) => version.previous !== null;
export const shared = (item) => percent(item.shared_bytes, item.bytes);
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
export function tensorTable(items, version) {
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
