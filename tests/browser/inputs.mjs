// Advanced inputs and the sockets' colours, told as JSON: node inputs.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, optimize } = settings;
const facts = {};
const p = await Page.open(settings);
const state = () =>
  p.page.evaluate((id) => {
    const node = window.app.graph.getNodeById(id);
    const shown = node.widgets.filter((widget) => node.isWidgetVisible(widget));
    const rows = shown.map((widget) => widget.y).filter((y) => y > 0).sort((a, b) => a - b);
    return {
      height: node.size[1],
      shown: shown.map((widget) => widget.name),
      gap: Math.max(0, ...rows.slice(2).map((y, i) => y - rows[i + 1])), // below the viewer
      label: node.widgets.find((widget) => widget.name === "advanced")?.label,
      values: node.serialize().widgets_values,
    };
  }, optimize);
const colors = () =>
  p.page.evaluate(() => {
    const { canvas, graph } = window.app;
    const style = getComputedStyle(document.documentElement);
    const types = new Set(graph._nodes.flatMap((node) => [...node.inputs, ...node.outputs].map((slot) => slot.type)));
    const own = [...types].filter((type) => String(type).startsWith("DISTILL3D_"));
    const of = (type) => [canvas.default_connection_color_byType[type], canvas.constructor.link_type_colors[type], style.getPropertyValue(`--color-datatype-${type}`).trim()];
    return Object.fromEntries(own.map((type) => [type, of(type)]));
  });
/** Clicks the button as it is drawn. */
const press = async () => {
  await p.look_at(optimize, 0.5);
  const [x, y] = await p.page.evaluate((id) => {
    const { canvas, graph } = window.app;
    const node = graph.getNodeById(id);
    const { scale, offset } = canvas.ds;
    const at = canvas.canvas.getBoundingClientRect();
    const place = [node.size[0] / 2, node.widgets.find((widget) => widget.name === "advanced").y + 10];
    return [0, 1].map((axis) => [at.x, at.y][axis] + (node.pos[axis] + place[axis] + offset[axis]) * scale);
  }, optimize);
  await p.page.mouse.click(x, y);
  await p.page.waitForTimeout(500);
};
const set = (name, value) => p.page.evaluate(([name, value]) => window.app.extensionManager.setting.set(name, value), [name, value]);

try {
  await set("Comfy.VueNodes.Enabled", false);
  await p.open_workflow(settings.workflow);
  await p.look_at(optimize, 0.7);
  await p.page.evaluate((id) => {
    const node = window.app.graph.getNodeById(id);
    node.setSize([node.size[0], node.computeSize()[1]]);
  }, optimize);
  await p.page.waitForTimeout(300);
  facts.hidden = await state();
  await p.whole(`${name}-hidden`);
  await press();
  facts.shown = await state();
  await p.whole(`${name}-shown`);
  await p.page.waitForTimeout(2500); // the workflow is kept for the reload
  await p.load(() => p.page.reload());
  facts.reloaded = await state();
  await press();
  facts.again = await state();
  // One that is linked stays in sight.
  await p.page.evaluate((id) => {
    const { graph } = window.app;
    const source = window.LiteGraph.createNode("PrimitiveInt");
    graph.add(source);
    const node = graph.getNodeById(id);
    source.connect(0, node, node.inputs.findIndex((slot) => slot.name === "schedule_steps"));
  }, optimize);
  for (let tries = 0; tries < 20; tries++) {
    await p.page.waitForTimeout(500);
    facts.linked = await state();
    if (facts.linked.shown.includes("schedule_steps")) break;
  }
  await p.page.evaluate((id) => {
    const node = window.app.graph.getNodeById(id);
    node.disconnectInput(node.inputs.findIndex((slot) => slot.name === "schedule_steps"));
  }, optimize);
  facts.colors = [await colors()];
  await set("Comfy.ColorPalette", "light");
  await p.page.waitForTimeout(500);
  facts.colors.push(await colors());
  await set("Comfy.ColorPalette", "dark");
  await set("Comfy.VueNodes.Enabled", true);
  await p.open_workflow(settings.workflow);
  await p.look_at(optimize, 0.7);
  const drawn = () => p.page.locator(`[data-node-id="${optimize}"]`);
  const dots = await drawn().evaluate((node) => [...node.querySelectorAll(".slot-dot, [class*='slot-dot']")].map((dot) => getComputedStyle(dot).backgroundColor));
  facts.dots = [...new Set(dots)];
  facts.nodes2 = [await drawn().innerText()];
  await p.whole(`${name}-nodes2`);
  await drawn().getByTestId("advanced-inputs-button").evaluate((button) => button.click()); // may be out of sight
  await p.page.waitForTimeout(500);
  facts.nodes2.push(await drawn().innerText());
  await p.whole(`${name}-nodes2-shown`);
  await set("Comfy.VueNodes.Enabled", false);
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
