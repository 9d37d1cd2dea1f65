// What is asked of the node, what the page knows of it, and what it says when the node does not answer.

import { askForToken } from './dashboard.js';
import { byId } from './elements.js';

export const POLL_MS = 2000;
const ANSWER_MS = 15000;
export const TOKEN_NAME = 'caskad-token';

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const state = { token: sessionStorage.getItem(TOKEN_NAME), answered: null, trouble: null, health: null, stat: null, samples: [], polls: 0, shown: {} };

/** `read` takes the body inside the same guard: an answer may also break off half-way. Without `patience` it may take any time. */
export async function request(path, read, patience) {
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

export const getJson = (path, patience = ANSWER_MS) => request(path, (response) => response.json(), patience);

export function reportTrouble(words, sentence) {
  if (state.trouble === words) return;
  const time = state.answered?.toLocaleTimeString('en-GB');
  const last = time ? `Last answer at ${time}.` : 'No answer yet since this page was opened.';
  setTrouble(words, `${sentence} ${last} Trying again every ${POLL_MS / 1000} seconds.`);
}

export function setTrouble(words, text = '') {
  const banner = byId('offline-banner');
  state.trouble = words;
  banner.textContent = text;
  banner.hidden = words === null;
  state.shown.draw?.();
}

/** For requests behind a page that stands: the banner tells of a silent node, a 401 asks for the token. */
export function tolerate(error) {
  if (error.status === 401) askForToken();
  else if (!(error instanceof Refused)) console.error(error);
}
