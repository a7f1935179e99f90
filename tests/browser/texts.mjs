// What the page shows of the pack in each language, told as JSON: node texts.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, languages, nodes } = settings;
const facts = {};
const p = await Page.open(settings);

/** Titles, and names of inputs and widgets as they are drawn, by node type. */
const drawn = () =>
  Object.fromEntries(
    window.app.graph._nodes.map((node) => [
      node.type,
      {
        title: node.title,
        inputs: node.inputs.filter((slot) => !slot.widget).map((slot) => slot.label ?? slot.localized_name ?? slot.name),
        outputs: node.outputs.map((slot) => slot.label ?? slot.localized_name ?? slot.name),
        widgets: (node.widgets ?? []).map((widget) => widget.label ?? widget.name),
      },
    ]),
  );

try {
  for (const language of languages) {
    const said = (facts[language] = { help: {} });
    const before = await p.page.evaluate(() => window.app.extensionManager.setting.get("Comfy.Locale"));
    if (before !== language) {
      await p.page.evaluate((to) => window.app.extensionManager.setting.set("Comfy.Locale", to), language);
      await p.load(() => p.page.reload());
    }
    for (const nodes2 of [false, true]) {
      await p.page.evaluate((on) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on), nodes2);
      await p.open_workflow(settings.workflow);
      const way = nodes2 ? "nodes2" : "classic";
      if (!nodes2) said.drawn = await p.page.evaluate(drawn);
      if (!nodes2) {
        said.groups = await p.page.evaluate(() => window.app.graph._groups.map((group) => group.title));
        said.note = await p.page.evaluate(() => window.app.graph._nodes.find((node) => node.type === "MarkdownNote").widgets[0].value);
        said.panel = await p.panel().innerText();
        await p.page.evaluate(() => window.app.extensionManager.command.execute("Comfy.BrowseTemplates"));
        said.card = await p.page.getByTestId("template-workflow-distill3d_quickstart").innerText();
        await p.page.keyboard.press("Escape");
      }
      else said.text = await p.page.evaluate(() => [...document.querySelectorAll("[data-node-id]")].map((each) => each.textContent).join("\n"));
      const id = await p.page.evaluate(([type]) => window.app.graph._nodes.find((node) => node.type === type).id, nodes);
      await p.look_at(id);
      await p.whole(`${name}-${language}-${way}`);
    }
    await p.page.evaluate(() => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", false));
    for (const type of nodes) {
      const content = await p.help(type);
      await p.page.waitForTimeout(500);
      said.help[type] = await content.innerText();
      said.pictures = await content.locator("img").evaluateAll((all) => all.map((each) => each.complete && each.naturalWidth));
      await p.whole(`${name}-${language}-${type}`);
    }
  }
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
