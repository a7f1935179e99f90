// Whose cloud a viewer shows, told as JSON: node whose.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, nodes2 } = settings;
const facts = {};
const p = await Page.open(settings);
const lines = async () => (await p.panel().locator(".facts").innerText()).trim().split(" · ")[0];
const shown = () => p.panel().getAttribute("data-shown");
const id = () => p.page.evaluate(() => window.app.graph.id);
const look = async () => p.look_at(await p.page.evaluate(() => window.app.graph._nodes.find((node) => node.type === "Distill3D_Optimize").id));
const run = async (steps) => {
  await p.set({ Distill3D_Optimize: { steps, seed: 40 + steps } });
  await p.queue();
  const end = await p.end();
  await p.page.waitForTimeout(1000);
  return [end, await lines()];
};
const open = async (words) => {
  await p.open_workflow(settings.workflow, (graph) => {
    graph.nodes.find((node) => node.type === "Distill3D_ViewPrompts").widgets_values[0] = words;
  });
  await look();
  await p.page.waitForTimeout(1500);
};

try {
  await p.page.evaluate((on) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on), nodes2);
  await p.page.evaluate(() => window.app.extensionManager.setting.set("Comfy.ConfirmClear", false));
  // A run of a program: neither while it runs nor later is it this page's.
  await open("a red mug");
  await p.set({ Distill3D_Optimize: { steps: 30, seed: 4 } });
  await p.listen_for_end();
  await p.page.evaluate(async () => {
    const { api } = window.app;
    window.begun = new Promise((done) => api.addEventListener("distill3d.start", done, { once: true }));
    const prompt = (await window.app.graphToPrompt()).output;
    await api.fetchApi("/prompt", { method: "POST", body: JSON.stringify({ prompt, client_id: api.clientId }) });
    await window.begun;
  });
  await p.page.waitForTimeout(1500);
  facts.program = [await lines()];
  await p.end();
  await p.page.waitForTimeout(800);
  facts.program.push(await lines());
  await open("a red mug");
  facts.program.push(await lines(), await shown());
  // A template is opened, its words are changed, and it is opened anew: what was made of other words is not shown.
  await open("a blue chair");
  facts.chair = await run(3);
  await open("a red mug");
  facts.mug = [await lines(), await shown()];
  await open("a blue chair");
  facts.again = [await lines(), Boolean(await shown())];
  // The same nodes in a graph that was cleared before, which has no id of its own.
  await p.page.evaluate(async () => {
    const { canvas, graph } = window.app;
    canvas.selectItems(graph._nodes);
    canvas.copyToClipboard();
    await window.app.extensionManager.command.execute("Comfy.ClearWorkflow");
  });
  await p.page.waitForTimeout(500);
  await p.page.evaluate(() => window.app.canvas.pasteFromClipboard());
  await p.page.waitForTimeout(800);
  facts.ids = [await id()];
  await look();
  facts.cleared = await run(4);
  await p.page.waitForTimeout(2500); // the workflow is kept for the reload
  await p.load(() => p.page.reload());
  facts.ids.push(await id());
  await look();
  await p.page.waitForTimeout(1500);
  facts.reloaded = await lines();
  facts.alive = await run(5);
  await p.whole(`${name}-alive`);
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
