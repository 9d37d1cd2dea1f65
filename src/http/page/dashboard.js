// The dashboard of a caskad node: asks it again and again, and shows the view that the address names.

import { byId, main, h, note, visible, keyLink, heading } from './elements.js';
import { overview } from './overview.js';
import { HISTORY_MS } from './plots.js';
import { POLL_MS, TOKEN_NAME, Refused, state, getJson, reportTrouble, setTrouble, tolerate } from './requests.js';
import { keyView, versionView } from './versions.js';

const POLL_ANSWER_MS = 5000;
export const POLLS_PER_LISTING = 5;

// ---- Polling

export async function takeSample() {
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
    if (state.shown.unfinished) show();
    else await state.shown.refresh?.();
  } catch (error) {
    if (mine !== polling) return;
    addSample({ at: performance.now(), counters: null, rates: {} });
    state.shown.draw?.();
    if (error.status >= 500) reportTrouble('answering with errors', `The node reports an error: ${visible(error.message)}.`);
    tolerate(error);
  }
  if (mine === polling) setTimeout(poll, POLL_MS, mine);
}

// ---- Routes

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

/** Loads the view that the address names, unless another one is asked for meanwhile. */
async function show(moveFocus = false) {
  const serial = ++showing;
  const route = parseRoute(location.hash);
  state.shown = {};
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
  state.shown = view;
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
export function askForToken() {
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
  state.shown = {};
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
