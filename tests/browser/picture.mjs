// The quickstart in the page after a run, as README shows it: node picture.mjs settings.json, the picture is page.png.

import { readFileSync } from "node:fs";
import { Page } from "./page.mjs";

const settings = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { workflow, nodes2, scale, corner } = settings;
const facts = {};
const p = await Page.open(settings);

try {
  // The tests' server has --disable-api-nodes, whose content policy keeps core's preview from a GLB's texture (blob:).
  // A ComfyUI without that option has no such policy.
  const session = await p.page.context().newCDPSession(p.page);
  await session.send("Page.setBypassCSP", { enabled: true });
  await p.load(() => p.page.reload());
  await p.page.evaluate((on) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on), nodes2);
  await p.page.evaluate(() => window.app.extensionManager.setting.set("Comfy.Minimap.Visible", false));
  await p.drop(workflow);
  await p.run();
  facts.end = await p.end();
  await p.page.waitForTimeout(8000); // the previews of other nodes load their files
  await p.page.evaluate(([scale, [x, y]]) => {
    const { canvas } = window.app;
    canvas.deselectAll();
    canvas.ds.scale = scale;
    canvas.ds.offset = [-x, -y];
    canvas.setDirty(true, true);
  }, [scale, corner]);
  await p.page.waitForTimeout(6000); // these are drawn in software
  facts.layout = await p.layout();
  await p.whole("picture");
} catch (error) {
  facts.failure = String(error.stack ?? error);
  await p.whole("failure");
}
await p.browser.close();
console.log(JSON.stringify({ facts, pictures: {}, told: p.told }));
