// Opens a page in headless Chromium as it lies on the disk, in both colour schemes and as print, and prints as JSON what happened:
//     node look.mjs TOOLS PAGE OUT
// TOOLS is what scripts/chromium.sh prints; OUT gets light.png, dark.png, light-full.png, dark-full.png and print.pdf.
import { createRequire } from 'node:module';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [tools, page, out] = process.argv.slice(2);
// The browser that npm has lies unpacked there, with the libraries and fonts that it needs.
process.env.TMPDIR = join(tools, 'unpacked');
process.env.AWS_EXECUTION_ENV ??= 'AWS_Lambda_nodejs20.x';
mkdirSync(out, { recursive: true });
const require = createRequire(join(tools, 'package.json'));
const { chromium: playwright } = require('playwright-core');

let executablePath = process.env.CHROMIUM;
if (!executablePath) {
  const module = await import(pathToFileURL(require.resolve('@sparticuz/chromium')).href);
  executablePath = await (module.default.default ?? module.default).executablePath();
}
// Drawn by SwiftShader in the browser's own process: with --disable-gpu one capture in ten was refused under load ("Unable to capture").
const browser = await playwright.launch({
  executablePath,
  args: ['--no-sandbox', '--headless=new', '--in-process-gpu', '--use-gl=angle', '--use-angle=swiftshader', '--ignore-gpu-blocklist', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
const said = { version: browser.version(), console: [], errors: [], dialogs: [], requests: [], schemes: {} };
const address = pathToFileURL(page).href;
for (const scheme of ['light', 'dark']) {
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width: 1120, height: 1400 } });
  const tab = await context.newPage();
  tab.on('console', (message) => said.console.push(`${message.type()}: ${message.text()}`));
  tab.on('pageerror', (error) => said.errors.push(String(error)));
  tab.on('dialog', (dialog) => { said.dialogs.push(dialog.message()); dialog.dismiss(); });
  tab.on('request', (request) => { if (request.url() !== address) said.requests.push(request.url()); });
  await tab.goto(address, { waitUntil: 'load' });
  // Everything open: what hides in the details is looked at as well.
  said.schemes[scheme] = await tab.evaluate(() => {
    const style = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
    return {
      ground: style('body', 'backgroundColor'),
      ink: style('body', 'color'),
      opened: style('#days svg [fill="#1D6FD8"]', 'fill'),
      scripts: document.scripts.length,
      frames: document.querySelectorAll('iframe,object,embed,link,img').length,
      handlers: [...document.querySelectorAll('*')].filter((e) => [...e.attributes].some((a) => a.name.startsWith('on'))).length,
      charts: document.querySelectorAll('figure svg').length,
      findings: document.querySelectorAll('#findings > details').length,
      wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
      text: document.body.innerText.length,
      hacked: typeof globalThis.hacked,
    };
  });
  await tab.screenshot({ path: join(out, `${scheme}.png`) });
  await tab.screenshot({ path: join(out, `${scheme}-full.png`), fullPage: true });
  if (scheme === 'light') await tab.pdf({ path: join(out, 'print.pdf'), format: 'A4', printBackground: false });
  await context.close();
}
await browser.close();
console.log(JSON.stringify(said));
