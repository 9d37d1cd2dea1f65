// The views of a key and of one of its versions, and what changed between two.

import {
  MOST_ROWS, h, panel, code, fact, aside, note, num, fixed, named, longName, clipped, table, row, DASH, count, percent, instant, plural, bytes,
  visible, codecWords, segments, versionLink, heading,
} from './elements.js';
import { state, request, getJson, tolerate } from './requests.js';
import { shared, tensorTable } from './tensors.js';
import { itemsOf, treemapPanel } from './treemap.js';

// ---- A key

export async function keyView({ key }) {
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

export async function versionView({ key, version: asked }) {
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

const blobPath = (version, path) => `/blobs/${segments(version.key)}@${version.version}?file=${encodeURIComponent(path)}`;

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
