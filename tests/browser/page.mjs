// A page of ComfyUI in a headless Chromium, and what a person does there.

import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

export const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
  "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
  "--disable-sync",
];

export class Page {
  /** Opens the page; `told` collects what its console, its errors and its requests say. */
  static async open({ url, browser, folder }) {
    const made = new Page();
    Object.assign(made, { url, folder, told: { errors: [], warnings: [], outside: [] } });
    made.browser = await chromium.launch({ executablePath: browser, headless: true, args: FLAGS });
    const context = await made.browser.newContext({ viewport: { width: 1500, height: 1000 }, hasTouch: true });
    made.page = await context.newPage();
    made.listen();
    await made.load(() => made.page.goto(url));
    return made;
  }

  listen() {
    const { page, told } = this;
    page.on("console", (message) => {
      const line = `${message.text()} (${message.location().url})`;
      if (message.type() === "error") told.errors.push(line);
      if (message.type() === "warning") told.warnings.push(line);
    });
    page.on("pageerror", (error) => told.errors.push(String(error.stack ?? error)));
    page.on("request", (request) => {
      const at = new URL(request.url());
      if (["http:", "https:", "ws:", "wss:"].includes(at.protocol) && at.hostname !== "127.0.0.1") told.outside.push(at.href);
    });
  }

  async load(go) {
    await go();
    await this.page.waitForFunction(() => window.app?.graph && window.app.extensionManager, null, { timeout: 60_000 });
    await this.page.waitForTimeout(1500); // it brings the last workflow back, and its dialogs up
  }

  async open_workflow(path) {
    const graph = JSON.parse(readFileSync(path, "utf8"));
    await this.page.evaluate((data) => window.app.loadGraphData(data), graph);
    await this.page.waitForTimeout(1000);
  }

  /** Brings the top of a node to the middle, at a zoom where a graph unit is `scale` pixels. */
  async look_at(id, scale = 1) {
    await this.page.evaluate(([id, scale]) => {
      const { canvas, graph } = window.app;
      const node = graph.getNodeById(id);
      const width = canvas.canvas.clientWidth / scale;
      canvas.ds.scale = scale;
      canvas.ds.offset = [width / 2 - node.pos[0] - node.size[0] / 2, 120 - node.pos[1]];
      canvas.setDirty(true, true);
    }, [id, scale]);
    await this.page.waitForTimeout(600);
  }

  panel(place = 0) {
    return this.page.locator(".distill3d").nth(place);
  }

  async run() {
    await this.page.evaluate(() => {
      window.ended = new Promise((done) => {
        for (const name of ["execution_success", "execution_error", "execution_interrupted"]) {
          window.app.api.addEventListener(name, () => done(name));
        }
      });
    });
    await this.page.getByRole("button", { name: /^Run$/ }).first().click();
    // Until then the panel may show the result of an earlier run.
    await this.page.locator(".distill3d button.stop:enabled").first().waitFor({ timeout: 120_000 });
  }

  /** How the run ended. */
  async end() {
    return this.page.evaluate(() => window.ended);
  }

  async step(place = 0) {
    return Number((await this.panel(place).getAttribute("data-step")) ?? 0);
  }

  async until_step(least, place = 0, timeout = 120_000) {
    await this.page.waitForFunction(
      ([least, place]) => Number(document.querySelectorAll(".distill3d")[place]?.dataset.step ?? 0) >= least,
      [least, place], { timeout },
    );
    return this.step(place);
  }

  /** A picture of the viewer's canvas alone. */
  async picture(name, place = 0) {
    await this.panel(place).locator(".view").screenshot({ path: `${this.folder}/${name}.png` });
    return `${name}.png`;
  }

  async whole(name) {
    await this.page.screenshot({ path: `${this.folder}/${name}-page.png` });
  }

  async drag(dx, dy, { place = 0, button = "left" } = {}) {
    const box = await this.panel(place).locator(".view canvas").boundingBox();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    await this.page.mouse.move(x, y);
    await this.page.mouse.down({ button });
    await this.page.mouse.move(x + dx, y + dy, { steps: 5 });
    await this.page.mouse.up({ button });
    await this.settle();
  }

  async wheel(amount, place = 0) {
    const box = await this.panel(place).locator(".view canvas").boundingBox();
    await this.page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    await this.page.mouse.wheel(0, amount);
    await this.settle();
  }

  /** Two fingers apart, as the browser tells it of a touch screen. */
  async pinch(place = 0) {
    const box = await this.panel(place).locator(".view canvas").boundingBox();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const screen = await this.page.context().newCDPSession(this.page);
    const send = (type, reach) =>
      screen.send("Input.dispatchTouchEvent", {
        type,
        touchPoints: reach ? [{ x: x - reach, y, id: 0 }, { x: x + reach, y, id: 1 }] : [],
      });
    await send("touchStart", 30);
    for (const reach of [35, 45, 55]) await send("touchMove", reach);
    await send("touchEnd", 0);
    await this.settle();
  }

  async press(text, place = 0) {
    await this.panel(place).getByRole("button", { name: text }).click();
  }

  /** Until what was changed has been drawn and sorted. */
  async settle() {
    await this.page.waitForTimeout(1500);
  }
}
