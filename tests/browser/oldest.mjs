// The viewer in the page of an older ComfyUI, told as JSON: node oldest.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, optimize, prompts } = settings;
const pictures = {};
const facts = {};
const p = await Page.open(settings);
const shoot = async (what) => (pictures[what] = await p.picture(`${name}-${what}`));

try {
  for (const nodes2 of [true, false]) {
    const way = nodes2 ? "nodes2" : "classic";
    const said = (facts[way] = {});
    await p.page.evaluate((on) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on), nodes2);
    await p.open_workflow(settings.workflow);
    await p.set({ Distill3D_Optimize: { seed: nodes2 ? 12 : 11 } });
    await p.look_at(optimize);
    await p.run();
    said.first = await p.until_step(1);
    await p.page.waitForTimeout(800);
    await shoot(`${way}-first`);
    said.later = await p.until_step(said.first + 4);
    await p.page.waitForTimeout(800);
    await shoot(`${way}-later`);
    await p.press("Stop and keep");
    said.end = await p.end();
    await p.settle();
    said.kept = await p.panel().locator(".facts").innerText();
    await shoot(`${way}-kept`);
    await p.drag(90, 40);
    await shoot(`${way}-orbit`);
    await p.whole(`${name}-${way}`);
    said.beside = await p.beside(optimize);
  }
  facts.help = await (await p.help("Distill3D_CDSLoss")).innerText();
  await p.whole(`${name}-help`);
  await p.look_at(optimize);
  await p.page.waitForTimeout(2500); // the workflow is kept for the reload
  await p.load(() => p.page.reload());
  await p.look_at(optimize);
  await p.until_step(1);
  await p.settle();
  facts.restored = await p.panel().locator(".facts").innerText();
  await shoot("restored");
  await p.set({ Distill3D_ViewPrompts: { prompt: "a red dragon" } });
  await p.page.getByRole("button", { name: /^Run$/ }).first().click();
  await p.page.waitForFunction(() => [...document.querySelectorAll(".distill3d-message")].some((each) => each.textContent), null, { timeout: 60_000 });
  facts.message = await p.page.evaluate((id) => window.app.graph.getNodeById(id).widgets.at(-1).element.textContent, prompts);
  await p.whole(`${name}-message`);
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures, told: p.told }));
