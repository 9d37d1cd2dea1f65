// Headless Chromium over its debugging protocol, without a package. Needs `node --experimental-websocket` and `chromium` on the path.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--remote-debugging-port=0'];

/** Starts a browser with one page. `problems` collects what its console and its policies complain about. */
export async function launch() {
  const profile = mkdtempSync(join(tmpdir(), 'caskad-browser-'));
  const child = spawn('chromium', [...FLAGS, `--user-data-dir=${profile}`, 'about:blank'], { stdio: ['ignore', 'ignore', 'pipe'] });
  const debuggerAt = await new Promise((found, failed) => {
    let text = '';
    child.stderr.on('data', (data) => {
      text += data;
      const match = /listening on ws:\/\/([^/]+)/.exec(text);
      if (match) found(match[1]);
    });
    child.on('exit', () => failed(new Error(`chromium ended: ${text}`)));
  });
  const targets = await (await fetch(`http://${debuggerAt}/json`)).json();
  const socket = new WebSocket(targets.find((target) => target.type === 'page').webSocketDebuggerUrl);
  await new Promise((open) => socket.addEventListener('open', open));

  const waiting = new Map();
  const problems = [];
  socket.addEventListener('message', ({ data }) => {
    const { id, error, result, method, params } = JSON.parse(data);
    if (id) {
      const { resolve, reject } = waiting.get(id);
      waiting.delete(id);
      if (error) reject(new Error(error.message));
      else resolve(result);
    } else if (method === 'Runtime.exceptionThrown') {
      problems.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    } else if (method === 'Log.entryAdded') {
      problems.push(`${params.entry.source}: ${params.entry.text}`);
    }
  });
  let asked = 0;
  const send = (method, params = {}) => new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    socket.send(JSON.stringify({ id: asked, method, params }));
  });
  for (const domain of ['Runtime', 'Log', 'Page']) await send(`${domain}.enable`);

  const evaluate = async (expression) => {
    const { result, exceptionDetails } = await send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description);
    return result.value;
  };
  const until = async (expression, what = expression) => {
    for (const end = Date.now() + 15000; ;) {
      if (await evaluate(`Boolean(${expression})`)) return;
      if (Date.now() > end) throw new Error(`it did not come to: ${what}`);
      await new Promise((later) => setTimeout(later, 50));
    }
  };
  return {
    problems,
    evaluate,
    /** Waits until `expression` is true in the page. */
    until,
    open: async (url) => {
      await send('Page.navigate', { url });
      await until(`location.href.startsWith(${JSON.stringify(url)}) && document.readyState === 'complete'`);
    },
    resize: (width, height = 900) => send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false }),
    scheme: (value) => send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value }] }),
    press: async (key, code) => {
      for (const type of ['keyDown', 'keyUp']) await send('Input.dispatchKeyEvent', { type, key, code: key, windowsVirtualKeyCode: code });
    },
    picture: async (path) => {
      const { cssContentSize } = await send('Page.getLayoutMetrics');
      const clip = { x: 0, y: 0, width: cssContentSize.width, height: Math.min(cssContentSize.height, 3000), scale: 1 };
      const { data } = await send('Page.captureScreenshot', { format: 'png', captureBeyondViewport: true, clip });
      writeFileSync(path, Buffer.from(data, 'base64'));
    },
    close: async () => {
      await send('Browser.close').catch(() => {});
      if (child.exitCode === null) await new Promise((ended) => child.on('exit', ended));
      rmSync(profile, { recursive: true, force: true });
    },
  };
}
