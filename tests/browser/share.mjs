// Opens a page from the disk as a person does: node share.mjs settings.json; the result is on the last line.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { FLAGS } from "./page.mjs";

const { browser, folder, file } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const address = pathToFileURL(join(folder, file)).href;
const chrome = await chromium.launch({ executablePath: browser, headless: true, args: FLAGS });
const context = await chrome.newContext({ viewport: { width: 400, height: 400 }, acceptDownloads: true, offline: true });
const page = await context.newPage();
const asked = [];
const said = [];
page.on("request", (request) => asked.push(request.url().slice(0, 80)));
page.on("console", (message) => ["error", "warning"].includes(message.type()) && said.push(message.text()));
page.on("pageerror", (error) => said.push(String(error.stack ?? error)));
await page.goto(address);
await page.waitForFunction(() => globalThis.viewer?.drawn > 5, null, { timeout: 60_000 });
const azimuth = () => page.evaluate(() => globalThis.viewer.orbit.azimuth);
const before = await azimuth();
await page.waitForFunction((first) => globalThis.viewer.orbit.azimuth > first + 0.1, before, { timeout: 60_000 });
const turned = (await azimuth()) - before;
await page.uncheck("#turn");
await page.click("#reset");
await page.waitForTimeout(4000);
await page.screenshot({ path: join(folder, "share.png") });
const orbit = await page.evaluate(() => ({ position: globalThis.viewer.orbit.position, target: globalThis.viewer.orbit.target }));
await page.reload();
const [download] = await Promise.all([page.waitForEvent("download"), page.click("#file")]);
await download.saveAs(join(folder, "downloaded"));
await chrome.close();
const others = asked.filter((url) => url !== address.slice(0, 80) && !/^(blob|data):/.test(url));
console.log(JSON.stringify({ turned, said, others, orbit, name: download.suggestedFilename() }));
