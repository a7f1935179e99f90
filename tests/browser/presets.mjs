// Presets: choosing one fills a node's inputs, told as JSON: node presets.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, loss, penalties } = settings;
const facts = {};
const p = await Page.open(settings);
const values = (id) =>
  p.page.evaluate((id) => {
    const shown = window.app.graph.getNodeById(id).widgets.filter((widget) => widget.serialize !== false);
    return Object.fromEntries(shown.map((widget) => [widget.name, widget.value]));
  }, id);
const queued = async (id) => (await p.page.evaluate(() => window.app.graphToPrompt())).output[id].inputs;
/** As the classic canvas's menu does it. */
const choose = (preset) => p.set({ Distill3D_CDSLoss: { preset } });
/** In Nodes 2.0's list, by the mouse. */
const pick = async (id, preset) => {
  const node = p.page.locator(`[data-node-id="${id}"]`);
  await node.getByRole("combobox").first().click();
  await p.page.getByRole("option", { name: preset, exact: true }).click();
  await p.page.waitForTimeout(500);
};

try {
  await p.page.evaluate(() => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", false));
  await p.open_workflow(settings.workflow);
  facts.opened = await values(loss);
  await choose("texture");
  facts.texture = await values(loss);
  await p.set({ Distill3D_CDSLoss: { weight: 0.5 } });
  facts.changed = await values(loss);
  await p.set({ Distill3D_CDSLoss: { weight: 1 } });
  facts.again = await values(loss);
  facts.queued = await queued(loss);
  await p.page.evaluate(() => window.app.loadGraphData(window.app.graph.serialize()));
  await p.page.waitForTimeout(1000);
  facts.reloaded = await values(loss);
  await p.page.evaluate(() => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", true));
  await p.open_workflow(settings.workflow);
  await p.look_at(loss);
  await p.page.waitForTimeout(500);
  await pick(loss, "refine");
  facts.refine = await values(loss);
  facts.said = await p.page.locator(`[data-node-id="${loss}"]`).innerText();
  await p.whole(`${name}-nodes2`);
  facts.penalties = await values(penalties);
  await p.page.evaluate(() => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", false));
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
