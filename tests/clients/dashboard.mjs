// Looks at the dashboard of a real node in a real browser.
//
// usage: node --experimental-websocket dashboard.mjs CASKAD_BINARY [DIRECTORY_FOR_PICTURES]
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { launch } from './browser.mjs';

const caskad = resolve(process.argv[2]);
const pictures = process.argv[3];
const fixtures = join(dirname(fileURLToPath(import.meta.url)), '..', 'fixtures');
const root = mkdtempSync(join(tmpdir(), 'caskad-dashboard-'));
const TOKEN = 'correct-horse-battery';

async function start(store, address = '127.0.0.1:0', token = '') {
  const env = { ...process.env, CASKAD_STORE: join(root, store), CASKAD_HTTP_TOKEN: token };
  const flags = ['--no-mdns', '--replication-factor', '1', '--listen', '/ip4/127.0.0.1/tcp/0', '--http', address];
  const child = spawn(caskad, ['--json', 'node', ...flags], { env, stdio: ['ignore', 'pipe', 'ignore'] });
  const { value } = await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next();
  const run = (...args) => execFileSync(caskad, ['--quiet', ...args], { env });
  const stop = () => new Promise((ended) => { child.on('exit', ended); child.kill('SIGTERM'); });
  return { url: JSON.parse(value).http, run, stop };
}

const one = (id) => `document.querySelector('[data-testid=${id}]')`;
const all = (id) => `[...document.querySelectorAll('[data-testid=${id}]')]`;

const browser = await launch();
const picture = (name) => (pictures ? browser.picture(join(pictures, `${name}.png`)) : null);
let node = await start('store');
let guarded;
try {
  await browser.resize(1280);
  await browser.open(node.url);
  await browser.until(`document.body.textContent.includes('caskad put')`, 'an empty store tells how to fill it');

  for (const version of ['v1', 'v2']) node.run('put', join(fixtures, `real_bf16_${version}.safetensors`), '--as', `models/minilm@${version}`);
  node.run('put', fixtures, '--as', 'fixtures');
  node.run('put', join(fixtures, 'README.md'), '--as', 'a:b/c_d');
  await browser.until(`${all('key-row')}.length === 3`, 'new keys appear by themselves');
  await browser.until(`${one('health-status')}?.textContent === 'healthy'`);
  await browser.until(`${one('plot-transfer')}?.querySelector('path') && ${one('plot-cache')}?.querySelector('path')`, 'the plots move');
  assert.equal(await browser.evaluate(`${one('ring')}.querySelectorAll('.mark').length`), 1);
  await picture('overview');

  await browser.evaluate(`location.hash = '#/key/models/minilm'`);
  await browser.until(`${all('version-row')}.length === 2`, 'a key shows its versions');
  await picture('key');
  await browser.evaluate(`location.hash = '#/version/models/minilm@2'`);
  await browser.until(`${all('treemap-cell')}.length >= 5`, 'a version shows its tensors');
  assert.ok(await browser.evaluate(`document.body.textContent.includes('encoder.layer.0.intermediate.dense.weight')`));
  await browser.evaluate(`document.querySelector('[data-testid=treemap-cell]').focus()`);
  const label = `document.activeElement.getAttribute('aria-label')`;
  const first = await browser.evaluate(label);
  await browser.press('ArrowRight', 39);
  await browser.until(`${label} !== ${JSON.stringify(first)}`, 'arrow keys move between tensors');
  await browser.evaluate(`${one('color-mode')}.querySelectorAll('input')[1].click()`);
  await picture('version');
  const link = await browser.evaluate(`document.querySelector('a[download]').href`);
  const downloaded = await fetch(link);
  assert.equal(downloaded.status, 200);
  assert.match(downloaded.headers.get('content-disposition'), /^attachment/);

  for (const [width, scheme] of [[360, 'dark'], [360, 'light'], [1280, 'dark']]) {
    await browser.resize(width);
    await browser.scheme(scheme);
    await browser.until(`innerWidth === ${width} && document.documentElement.scrollWidth <= innerWidth`, `no sideways scrolling at ${width}`);
    await picture(`version-${width}-${scheme}`);
  }
  await browser.resize(1280);
  await browser.evaluate(`location.hash = '#/key/fixtures'`);
  await browser.until(one('versions-table'));
  await browser.evaluate(`location.hash = '#/version/a:b/c_d@1'`);
  await browser.until(one('treemap'), 'a key with other characters opens');
  assert.deepEqual(browser.problems, [], 'nothing to complain about so far');
  await browser.evaluate(`location.hash = '#/key/absent/one'`);
  await browser.until(`${one('not-found')}?.textContent.includes('absent/one')`, 'what is missing is named');

  await browser.evaluate(`location.hash = '#/'`);
  await browser.until(one('keys-table'));
  await node.stop();
  await browser.until(`!${one('offline-banner')}.hidden`, 'a node that stopped is told');
  await picture('stopped');
  node = await start('store', new URL(node.url).host);
  await browser.until(`${one('offline-banner')}.hidden`, 'a node that is back is told');

  guarded = await start('guarded', '127.0.0.1:0', TOKEN);
  await browser.open(guarded.url);
  await browser.until(one('token-form'), 'a token is asked for');
  await picture('token');
  await browser.evaluate(`document.getElementById('token').value = ${JSON.stringify(TOKEN)}; ${one('token-form')}.requestSubmit()`);
  await browser.until(`${one('health-status')}?.textContent === 'healthy'`, 'the token lets in');
  const serious = browser.problems.filter((problem) => !/Failed to load resource|ERR_/.test(problem));
  assert.deepEqual(serious, []);
  console.log('the dashboard shows what the node does');
} finally {
  await browser.close();
  await Promise.all([node, guarded].filter(Boolean).map((running) => running.stop()));
  rmSync(root, { recursive: true, force: true });
}
