// What a person does with the quickstart, told as JSON: node scenario.mjs settings.json, result on the last line.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, optimize, nodes2 } = settings;
const pictures = {};
const facts = {};
const p = await Page.open(settings);
const shoot = async (what) => (pictures[what] = await p.picture(`${name}-${what}`));

try {
  await p.page.evaluate((on) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on), nodes2);
  await p.open_workflow(settings.workflow);
  facts.values = await p.page.evaluate(
    ([id]) => {
      const values = window.app.graph.getNodeById(id).serialize().widgets_values;
      return [values, window.app.graph.serialize().nodes.find((node) => node.id === id).widgets_values];
    },
    [optimize],
  );
  facts.prompt = (await p.page.evaluate(() => window.app.graphToPrompt())).output[String(optimize)].inputs;
  await p.viewers();
  facts.panels = await p.page.locator(".distill3d").count();
  await p.look_at(optimize);
  facts.loaded = await p.page.evaluate(() => performance.getEntriesByType("resource").map(({ name }) => name.split("/").at(-1)));
  await p.run();
  facts.first = await p.until_step(1);
  await p.page.waitForTimeout(800); // to draw; more of it comes meanwhile
  await shoot("first");
  facts.later = await p.until_step(facts.first + 8);
  await p.page.waitForTimeout(800);
  await shoot("later");
  facts.running = await p.panel().locator(".facts").innerText();
  facts.curve = await p.panel().locator(".curve polyline").getAttribute("points");
  facts.chart = (await p.panel().locator(".chart").boundingBox()).height;
  facts.heights = await p.panel().evaluate((panel) => [panel, ...panel.children].map((part) => part.getBoundingClientRect().height));
  await p.whole(`${name}-running`);
  await p.page.evaluate(() => {
    const facts = document.querySelector(".distill3d .facts");
    window.said = [];
    new MutationObserver(() => window.said.push(facts.innerText)).observe(facts, { childList: true });
  });
  await p.press("Stop and keep");
  facts.end = await p.end();
  facts.stopping = await p.page.evaluate(() => window.said.filter((text) => text.includes("Stopping")).length);
  await p.page.waitForTimeout(1500); // pictures of other outputs come late, and make room for themselves
  await p.settle();
  facts.kept = await p.panel().locator(".facts").innerText();
  facts.stop_enabled = await p.panel().getByRole("button", { name: "Stop and keep" }).isVisible();
  await shoot("kept");
  await shoot("kept-again");
  const moves = { // these wait until the view has settled
    orbit: () => p.drag(90, 40),
    pan: () => p.drag(60, 0, { button: "right" }),
    zoom: () => p.wheel(-400),
    touch: () => p.touch([[0, 0]], [[60, 30]]),
    pinch: () => p.touch([[-30, 0], [30, 0]], [[-55, 0], [55, 0]]),
    reset: async () => (await p.press("Reset"), p.settle()),
  };
  const place = () => p.page.evaluate((id) => [...window.app.canvas.ds.offset, window.app.canvas.ds.scale, ...window.app.graph.getNodeById(id).pos], optimize);
  facts.graph_before = await place();
  for (const [what, move] of Object.entries(moves)) {
    await move();
    await shoot(what);
  }
  facts.graph_after = await place();
  facts.beside = await p.beside(optimize);
  await p.press("Background");
  await p.settle();
  await shoot("white");
  await p.press("Turntable");
  await p.page.waitForTimeout(1500);
  await shoot("turned");
  await p.press("Turntable");
  await p.page.waitForTimeout(2500); // the workflow is kept for the reload
  await p.whole(`${name}-kept`);

  await p.load(() => p.page.reload());
  await p.look_at(optimize);
  facts.restored = await p.until_step(1);
  await p.settle();
  facts.restored_facts = await p.panel().locator(".facts").innerText();
  await shoot("restored");
  await p.whole(`${name}-restored`);
  // Nothing has changed, so Run makes nothing; and then all of it is asked for.
  await p.page.evaluate(() => {
    window.begun = 0;
    window.app.api.addEventListener("distill3d.start", () => window.begun++);
  });
  await p.queue();
  facts.again = [await p.end(), await p.page.evaluate(() => window.begun), await p.panel().locator(".facts").innerText()];
  await p.listen_for_end();
  await p.press("Run all steps");
  await p.panel().locator("button.stop:enabled").waitFor({ timeout: 60_000 });
  facts.anew = await p.until_step(2);
  await p.press("Stop and keep");
  facts.anew_end = [await p.end(), await p.page.evaluate(() => window.begun)];
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures, told: p.told }));
