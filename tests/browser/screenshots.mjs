// Pictures of every workflow as it opens and as a whole: node screenshots.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { workflows, nodes2, locale } = settings;
const RELOAD = 8; // graphs: the page keeps the WebAssembly memory of its own viewers
const facts = {};
const p = await Page.open(settings);
const set = (name, value) =>
  p.page.evaluate(([name, value]) => window.app.extensionManager.setting.set(name, value), [name, value]);

await set("Comfy.VueNodes.Enabled", nodes2);
await set("Comfy.Locale", locale);
await p.load(() => p.page.reload());
for (const [i, path] of workflows.entries()) {
  if (i % RELOAD === RELOAD - 1) await p.load(() => p.page.reload());
  const name = path.split("/").at(-1).replace(".json", "");
  try {
    await p.open_file(path);
    const blueprint = await p.page.evaluate(() => window.app.graph._groups.length === 0); // one node alone
    facts[name] = blueprint ? await p.rest(() => p.layout(), 500) : await p.rest(() => p.view(), 500);
    await p.whole(`${name}-opened`);
    await p.fit();
    await p.whole(`${name}-all`);
  } catch (error) {
    facts[name] = { failure: String(error.stack ?? error) };
    await p.whole(`${name}-failure`);
  }
}
await p.browser.close();
console.log(JSON.stringify({ facts, told: p.told }));
