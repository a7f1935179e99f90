// What a loss and the cameras tell of `values` auto, told as JSON: node auto.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, loss, cameras } = settings;
const facts = {};
const p = await Page.open(settings);
const texts = (id) =>
  p.page.evaluate((id) => {
    const shown = (window.app.graph.getNodeById(id).widgets ?? []).map((widget) => widget.value);
    return shown.filter((value) => typeof value === "string" && value.startsWith("auto, "));
  }, id);

try {
  await p.page.evaluate(() => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", false));
  await p.open_workflow(settings.workflow);
  facts.before = await texts(loss);
  await p.run();
  await p.page.waitForTimeout(1000);
  facts.loss = await texts(loss);
  facts.cameras = await texts(cameras);
  await p.look_at(loss);
  await p.page.waitForTimeout(500);
  await p.whole(name);
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
