// What must not confuse a viewer: an outage, another workflow, the front of the queue, a closed subgraph. Told as JSON:
// node guards.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, optimize } = settings;
const facts = {};
const p = await Page.open(settings);
const seed = () => p.set({ Distill3D_Optimize: { seed: Math.floor(Math.random() * 1e9) } });
const lines = async () => (await p.panel().locator(".facts").innerText()).trim();
const messages = () =>
  p.page.evaluate(() =>
    window.app.graph._nodes.flatMap((node) =>
      (node.widgets ?? []).filter((widget) => widget.name === "message").map((widget) => [node.title, widget.element.innerText]),
    ),
  );
const asked = [];
p.page.on("request", (request) => request.url().includes("/distill3d/live/") && asked.push(request.url()));

try {
  await p.page.evaluate(() => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", false));
  // The server is not reached for longer than the page waits for an event.
  await p.open_workflow(settings.workflow);
  await p.look_at(optimize);
  await seed();
  await p.run();
  await p.until_step(2);
  await p.page.route("**/distill3d/live/*", (route) => route.abort());
  await p.page.waitForTimeout(12_000);
  const before = await p.step();
  await p.page.unroute("**/distill3d/live/*");
  facts.outage = [before, await p.until_step(before + 2, 0, 30_000)];

  // A collapsed node asks for nothing, and goes on when it is opened.
  await p.page.evaluate((id) => window.app.graph.getNodeById(id).collapse(), optimize);
  await p.page.waitForTimeout(1500);
  asked.length = 0;
  await p.page.waitForTimeout(3000);
  facts.collapsed = asked.length;
  const closed = await p.step();
  await p.page.evaluate((id) => window.app.graph.getNodeById(id).collapse(), optimize);
  facts.opened = [closed, await p.until_step(closed + 2, 0, 30_000)];

  // Another workflow, whose nodes have the same ids, is opened while this one runs and ends.
  await p.listen_for_end();
  const prompt = await p.page.evaluate(() => fetch("/queue").then((r) => r.json()).then((q) => q.queue_running[0][1]));
  await p.open_workflow(settings.other);
  await p.look_at(optimize);
  const quiet = await lines();
  await p.page.evaluate((id) => fetch(`/distill3d/stop/${id}`, { method: "POST" }), optimize);
  await p.end();
  await p.page.waitForTimeout(2500);
  facts.other = [quiet, await lines()];
  await p.page.evaluate(
    ([prompt_id, node_id]) =>
      window.app.api.dispatchEvent(
        new CustomEvent("execution_error", {
          detail: { prompt_id, node_id: String(node_id), node_type: "Distill3D_Optimize", exception_message: "of another graph", traceback: [] },
        }),
      ),
    [prompt, optimize],
  );
  facts.foreign = [await messages(), await p.panel().locator(".distill3d-message").innerText()];

  // The last run was queued at the front; the page is loaded again.
  await p.open_workflow(settings.workflow);
  await p.look_at(optimize);
  for (const [steps, number] of [[3, 0], [5, -1]]) {
    await p.set({ Distill3D_Optimize: { steps } });
    await p.listen_for_end();
    await p.page.evaluate((number) => window.app.queuePrompt(number, 1), number);
    await p.end();
    await p.page.waitForTimeout(1000);
  }
  facts.front = [await lines()];
  await p.page.waitForTimeout(2500); // the workflow is kept for the reload
  await p.load(() => p.page.reload());
  await p.look_at(optimize);
  await p.page.waitForTimeout(2000);
  facts.front.push(await lines());

  // A closed subgraph: its inner viewer asks for nothing, and what goes wrong inside is said outside.
  await p.open_workflow(settings.blueprint);
  await p.page.evaluate(() => (window.app.graph._nodes[0].widgets.find((widget) => widget.name === "prompt").value = "a dragon"));
  asked.length = 0;
  await p.queue();
  await p.end();
  await p.page.waitForTimeout(800);
  const said = () =>
    p.page.locator(".distill3d-message").evaluateAll((all) => all.filter((each) => each.getClientRects().length && each.textContent).map((each) => each.textContent));
  facts.closed = [asked.length, await said()];
  await p.whole(`${name}-closed`);
  await p.page.evaluate(() => window.app.api.dispatchEvent(new CustomEvent("promptQueueing")));
  await p.page.waitForTimeout(300);
  facts.closed.push(await said());
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
