// The template browser, and how each of the pack's templates opens, told as JSON: node templates.mjs settings.json.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { name, names, nodes2 } = settings;
const facts = { opened: {} };
const p = await Page.open(settings);
const browse = async () => {
  await p.page.evaluate(() => window.app.extensionManager.command.execute("Comfy.BrowseTemplates"));
  await p.page.locator("[data-testid^=template-workflow-]").first().waitFor({ timeout: 60_000 });
};
const cards = () =>
  p.page.locator("[data-testid^=template-workflow-]").evaluateAll((all) =>
    all.map((card) => [card.dataset.testid.replace("template-workflow-", ""), card.innerText]),
  );
/** How the graph is seen: boxes are [left, top, right, bottom] in pixels. */
const view = () =>
  p.page.evaluate(() => {
    const { canvas, graph } = window.app;
    const { scale, offset } = canvas.ds;
    const box = ([x, y], [width, height]) => [x, y, x + width, y + height].map((value, i) => Math.round((value + offset[i % 2]) * scale));
    const note = graph._nodes.filter((node) => node.type === "MarkdownNote").sort((a, b) => a.pos[1] - b.pos[1])[0];
    const group = [...graph._groups].sort((a, b) => a.pos[0] - b.pos[0] || a.pos[1] - b.pos[1])[0];
    const loop = graph._nodes.filter((node) => /Distill3D_Optimize/.test(node.type)).sort((a, b) => a.pos[0] - b.pos[0])[0];
    return {
      scale,
      app: canvas.canvas.clientWidth === 0, // the page's app mode has no canvas
      sides: [canvas.canvas.clientWidth, canvas.canvas.clientHeight],
      note: box(note.pos, note.size),
      group: box(group.pos, group.size),
      loop: box((loop ?? group).pos, (loop ?? group).size),
      tallest: Math.max(...graph._nodes.filter((node) => node.type.startsWith("Distill3D_")).map((node) => node.size[1]), 0),
    };
  });

try {
  await p.page.evaluate((on) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on), nodes2);
  await browse();
  await p.page.getByRole("button", { name: "Distill3D", exact: true }).first().click();
  facts.category = await p.rest(cards, 700);
  await p.whole(`${name}-category`);
  await p.page.keyboard.press("Escape");
  await p.page.waitForTimeout(500);
  await browse();
  await p.page.getByPlaceholder(/search/i).last().fill("distill3d");
  await p.page.waitForTimeout(1000); // until it begins to search
  facts.search = await p.rest(cards, 700);
  await p.whole(`${name}-search`);
  await p.page.keyboard.press("Escape");
  for (const each of names) {
    await p.page.waitForTimeout(500);
    const before = await p.page.evaluate(() => window.app.graph.id);
    await browse();
    await p.page.getByPlaceholder(/search/i).last().fill(each.replaceAll("_", " "));
    await p.page.getByTestId(`template-workflow-${each}`).click();
    await p.page.waitForFunction((id) => window.app.graph.id !== id, before, { timeout: 60_000 });
    facts.opened[each] = await p.rest(view, 800);
    await p.whole(`${name}-${each}`);
  }
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
