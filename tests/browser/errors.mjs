// What goes wrong, as the nodes tell it, told as JSON: node errors.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, nodes2, optimize, prompts } = settings;
const facts = {};
const p = await Page.open(settings);

/** The messages that the page shows, each with the node it is in: [[title, text]]. */
const messages = () =>
  p.page.evaluate(() =>
    window.app.graph._nodes.flatMap((node) =>
      (node.widgets ?? [])
        .map((widget) => widget.element)
        .flatMap((element) => (element?.matches(".distill3d-message") ? [element] : [...(element?.querySelectorAll(".distill3d-message") ?? [])]))
        .filter((element) => element.textContent && element.isConnected && element.getBoundingClientRect().height > 20)
        .map((element) => [node.title, element.innerText]),
    ),
  );
const click = () => p.page.getByRole("button", { name: /^Run$/ }).first().click();
const said = async () => {
  await p.page.waitForFunction(() => [...document.querySelectorAll(".distill3d-message")].some((each) => each.textContent), null, { timeout: 30_000 });
  await p.page.waitForTimeout(500);
  return messages();
};
const saved = () => p.page.evaluate(() => window.app.graph.serialize().nodes.map((node) => [node.id, node.widgets_values, node.size[1]]));

try {
  await p.page.evaluate((on) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on), nodes2);
  await p.open_workflow(settings.workflow);
  await p.look_at(optimize, 0.8);
  await p.set({ Distill3D_Optimize: { steps: 0, image_size: -5 } });
  await click();
  facts.refused = await said();
  await p.whole(`${name}-refused`);
  await p.set({ Distill3D_Optimize: { steps: 3, image_size: 64 }, Distill3D_OrbitCameras: { elevation_min: 50, elevation_max: 10 } });
  await click();
  await p.page.waitForFunction(() => ![...document.querySelectorAll(".distill3d-message")].some((each) => each.textContent.includes("steps is 0")), null, { timeout: 30_000 });
  await said();
  facts.once = await p.page.evaluate(() => Object.values(window.app.lastNodeErrors).map((about) => about.errors.map((error) => error.extra_info.input_name)));
  await p.set({ Distill3D_OrbitCameras: { elevation_min: -10, elevation_max: 45 } });
  await p.look_at(prompts, 0.8);
  facts.before = await saved();
  await p.set({ Distill3D_ViewPrompts: { prompt: "a red dragon" } });
  await click();
  await p.page.waitForFunction(() => [...document.querySelectorAll(".distill3d-message")].some((each) => each.textContent.includes("dragon")), null, { timeout: 30_000 });
  facts.failed = await said();
  facts.during = await saved();
  await p.whole(`${name}-failed`);
  await p.page.waitForTimeout(2500); // the workflow is kept for the reload

  await p.load(() => p.page.reload());
  await p.look_at(prompts, 0.8);
  facts.restored = await said();
  await p.set({ Distill3D_ViewPrompts: { prompt: "a red mug" } });
  await p.page.evaluate(() => {
    window.over = new Promise((done) => window.app.api.addEventListener("execution_success", () => done(true)));
  });
  await click();
  await p.page.evaluate(() => window.over);
  facts.mended = await messages();
  facts.after = await saved();
  // What went well, but otherwise than was asked for, is a note in its node.
  facts.note = await p.page.evaluate(async () => {
    const node = window.LiteGraph.createNode("Distill3D_ExportMesh");
    window.app.graph.add(node);
    window.app.graph._nodes.find((each) => each.type === "Distill3D_Optimize").connect(0, node, 0);
    node.widgets.find((widget) => widget.name === "resolution").value = 32;
    return node.id;
  });
  await p.look_at(facts.note, 0.8);
  await p.queue();
  facts.note = [await p.end()];
  await said();
  facts.note.push(await messages());
  await p.whole(`${name}-note`);
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
