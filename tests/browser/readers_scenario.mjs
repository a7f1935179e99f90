// Shows files in other people's viewers: node readers_scenario.mjs settings.json; the result is on the last line.
//
// The page, the viewers' modules and the files are all answered from this machine's disk; nothing else is asked for.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { FLAGS } from "./page.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const ORIGIN = "http://localhost";
const IMPORTS = {
  three: "/node_modules/three/build/three.module.js",
  "three/webgpu": "/node_modules/three/build/three.webgpu.js",
  "three/tsl": "/node_modules/three/build/three.tsl.js",
  "three/addons/": "/node_modules/three/examples/jsm/",
  "@sparkjsdev/spark": "/node_modules/@sparkjsdev/spark/dist/spark.module.js",
  fflate: "/node_modules/fflate/esm/browser.js",
};
const PAGE = `<!doctype html><style>body { margin: 0 } canvas { display: block }</style><body>
<script type="importmap">${JSON.stringify({ imports: IMPORTS })}</script>
<script type="module">import * as readers from "/readers.mjs"; window.readers = readers;</script>`;

const { browser, folder, view, shows } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const outside = [];

async function answer(route) {
  const { origin, pathname } = new URL(route.request().url());
  const path = pathname.startsWith("/files/") ? join(folder, pathname.slice(7)) : join(HERE, pathname);
  if (origin !== ORIGIN) outside.push(route.request().url());
  if (origin === ORIGIN && pathname === "/") return route.fulfill({ contentType: "text/html", body: PAGE });
  if (origin === ORIGIN && pathname !== "/favicon.ico" && existsSync(path)) return route.fulfill({ path });
  return route.abort();
}

const chrome = await chromium.launch({ executablePath: browser, headless: true, args: FLAGS });
const told = {};
for (const { reader, file, name } of shows) {
  const context = await chrome.newContext({ viewport: { width: view.size, height: view.size } });
  await context.route("**/*", answer);
  const page = await context.newPage();
  const said = [];
  page.on("console", (message) => message.type() === "error" && said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error.stack ?? error)));
  const begin = performance.now();
  try {
    await page.goto(ORIGIN);
    await page.waitForFunction(() => window.readers, null, { timeout: 30_000 });
    const count = await page.evaluate(
      ([reader, url, view]) => window.readers[reader](url, view), [reader, `/files/${file}`, view],
    );
    await page.screenshot({ path: join(folder, `${name}.png`) });
    told[name] = { count, said, seconds: (performance.now() - begin) / 1000 };
  } catch (error) {
    told[name] = { failure: String(error.message ?? error).split("\n")[0], said };
  }
  await context.close();
}
await chrome.close();
console.log(JSON.stringify({ told, outside }));
