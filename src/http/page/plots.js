// Plots that move with each sample.

import { h, s, panel, watchWidth, DASH, count } from './elements.js';
import { state } from './requests.js';

export const HISTORY_MS = 180000;

export const rounded = (value) => (value >= 10 ? count(Math.round(value)) : String(Math.round(value * 10) / 10));
export const binaryCeiling = (value) => 2 ** Math.ceil(Math.log2(Math.max(value, 1024)));

export function decimalCeiling(value) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(value, 4)));
  return unit * [1, 2, 4, 10].find((step) => step * unit >= value);
}

export function plot(testId, title, names, format, ceiling) {
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
