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
    facts.opened[each] = await p.rest(() => p.view(), 800);
    await p.whole(`${name}-${each}`);
  }
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole(`${name}-failure`);
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
