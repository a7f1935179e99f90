// Many viewers in one graph, told as JSON: node several.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, previews, seed } = settings;
const pictures = {};
const facts = { clouds: [] };
const p = await Page.open(settings);
const shoot = async (what, place) => (pictures[what] = await p.picture(`${name}-${what}`, place));

/** Two Optimize nodes from two clouds, and viewers of the clouds and of the results, all in sight. */
const build = (previews, seed) => {
  const { graph, canvas } = window.app;
  const one = (type) => graph._nodes.find((node) => node.type === `Distill3D_${type}`);
  const needed = ["LoadDiffusionPrior", "ViewPrompts", "OrbitCameras", "InitText", "CDSLoss", "Optimize"];
  const kept = needed.map(one);
  for (const node of [...graph._nodes]) if (!kept.includes(node)) graph.remove(node);
  const make = (type, pos) => {
    const node = window.LiteGraph.createNode(`Distill3D_${type}`);
    graph.add(node);
    node.pos = pos;
    return node;
  };
  const set = (node, values) => {
    for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name];
  };
  const [prior, prompts, cameras, large, loss, first] = kept;
  const small = make("InitGaussians", [0, 1500]);
  set(small, { count: 400, radius: 0.3, scale: 0.05, opacity: 0.5 });
  const second = make("Optimize", [400, 1500]);
  first.pos = [0, 1800];
  second.pos = [400, 1800];
  set(first, { steps: 12, seed });
  set(second, { steps: 40, views: 1, image_size: 64, seed });
  [prior, prompts, cameras, small, loss].forEach((node, slot) => node.connect(0, second, slot));
  const sources = [large, small, first, second];
  for (let i = 0; i < previews; i++) {
    sources[i % 4].connect(0, make("PreviewGaussians", [800 + 400 * (i % 4), 1800 + 620 * Math.floor(i / 4)]), 0);
  }
  canvas.ds.scale = 0.55;
  canvas.ds.offset = [150, -1570]; // clear of the page's bars
  canvas.setDirty(true, true);
};

/** For each viewer, whether it rests: shows a still picture and holds no context. */
const resting = () =>
  p.page.evaluate(() => [...document.querySelectorAll(".distill3d .view canvas")].map((canvas) => canvas.style.background.includes("url(")));

/** Presses all of them at once: with each that turns, a click by the mouse takes longer. */
const turntables = () =>
  p.page.evaluate(() => [...document.querySelectorAll(".distill3d button")].filter((each) => each.textContent === "Turntable").forEach((each) => each.click()));

try {
  await p.open_workflow(settings.workflow);
  await p.page.evaluate(`(${build})(${previews}, ${seed})`);
  await p.viewers(previews + 2);
  const count = await p.page.locator(".distill3d").count();
  const live = p.page.evaluate(() => {
    const seen = {};
    window.app.api.addEventListener("distill3d.frame", ({ detail }) => (seen[detail.node] ??= []).push(detail.step));
    return new Promise((done) => window.app.api.addEventListener("execution_success", () => done(seen)));
  });
  await p.queue();
  facts.live = await live;
  await p.page.waitForFunction(() => [...document.querySelectorAll(".distill3d")].every((panel) => panel.dataset.shown), null, { timeout: 60_000 });
  await p.page.waitForTimeout(3000);
  await p.whole(`${name}-all`);
  facts.resting = (await resting()).filter(Boolean).length;
  for (let i = 0; i < count; i++) {
    facts.clouds.push(Number(await p.panel(i).getAttribute("data-shown")));
    await shoot(`before-${i}`, i);
  }
  for (let i = 0; i < count; i += 2) {
    await p.drag(60, 25, { place: i });
    await shoot(`after-${i}`, i);
  }
  await turntables();
  await p.page.waitForTimeout(2500);
  const before = await resting();
  await p.page.waitForTimeout(1500);
  facts.turning = [before, await resting()];
  await turntables();
  // The browser takes a context away when the page has too many.
  facts.taken = await p.page.evaluate(() => {
    const place = [...document.querySelectorAll(".distill3d .view canvas")].findLastIndex((canvas) => !canvas.style.background.includes("url("));
    document.querySelectorAll(".distill3d .view canvas")[place].getContext("webgl2").getExtension("WEBGL_lose_context").loseContext();
    return place;
  });
  await p.page.waitForTimeout(3000);
  await p.settle(facts.taken);
  await shoot("taken", facts.taken);
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures, told: p.told }));
