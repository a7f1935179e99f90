// Every shipped workflow, opened and looked at, told as JSON: node layouts.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, workflows, run, cards, nodes2, values } = settings;
const RELOAD = 8; // graphs: the page keeps the WebAssembly memory of its own viewers
const facts = { layouts: {}, opened: {}, started: {} };
const p = await Page.open(settings);

/** Presses Run and waits for the first of the pack's loops, or for what kept it from beginning; then ends the run. */
async function first_click() {
  await p.page.evaluate(() => {
    const { api } = window.app;
    const heard = (name, act) => api.addEventListener(name, act, { once: true });
    window.begun = new Promise((done) => {
      heard("distill3d.start", () => done("runs"));
      heard("execution_error", ({ detail }) => done(detail.exception_message));
      const refused = setInterval(() => {
        const errors = window.app.lastNodeErrors;
        if (errors && Object.keys(errors).length) done(JSON.stringify(errors));
      }, 100);
      setTimeout(() => clearInterval(refused), 60_000);
    });
    window.over = new Promise((done) => {
      for (const name of ["execution_interrupted", "execution_error", "execution_success"]) heard(name, () => done(name));
    });
  });
  await p.page.getByRole("button", { name: /^Run$/ }).first().click();
  const begun = await p.page.evaluate(() => window.begun);
  if (begun === "runs") {
    await p.page.evaluate(() => window.app.api.interrupt());
    await p.page.evaluate(() => window.over);
  }
  return begun;
}

try {
  await p.page.evaluate((on) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on), nodes2);
  for (const [i, path] of workflows.entries()) {
    if (i % RELOAD === RELOAD - 1) await p.load(() => p.page.reload());
    const workflow = path.split("/").at(-1).replace(".json", "");
    if (nodes2) await p.drop(path);
    else if (cards.includes(workflow)) facts.opened[workflow] = await p.open_template(workflow);
    else {
      await p.open_file(path);
      facts.opened[workflow] = await p.opened(workflow);
    }
    facts.layouts[workflow.replace("distill3d_", "")] = await p.layout();
    await p.whole(`${name}-${workflow}`);
  }
  // All layouts first: the page shows what a run has left in a node also in another workflow's node of the same number.
  if (run.length) await p.load(() => p.page.reload());
  for (const path of run) {
    const workflow = path.split("/").at(-1).replace(".json", "");
    await p.open_workflow(path);
    await p.set(values);
    facts.started[workflow.replace("distill3d_", "")] = await first_click();
  }
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
