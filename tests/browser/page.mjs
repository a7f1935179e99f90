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
  static async open({ url, browser, folder, watched }) {
    const made = new Page();
    Object.assign(made, { url, folder, watched, told: { errors: [], warnings: [], outside: [] } });
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

  async open_workflow(path, change = () => {}) {
    const graph = JSON.parse(readFileSync(path, "utf8"));
    change(graph);
    await this.page.evaluate((data) => window.app.loadGraphData(data), graph);
    await this.page.waitForTimeout(1000);
  }

  /** Opens a workflow of the pack as a newcomer does: by its card in the template browser. Gives how it is seen then. */
  async open_template(name) {
    await this.page.evaluate(() => window.app.extensionManager.command.execute("Comfy.BrowseTemplates"));
    const before = await this.page.evaluate(() => window.app.graph.id);
    const card = this.page.getByTestId(`template-workflow-${name}`);
    await card.waitFor({ state: "visible", timeout: 60_000 });
    for (let i = 0; i < 6 && (await card.count()); i++) {
      await card.click({ timeout: 20_000 }).catch(() => {}); // which misses while pictures come in and cards move
      await card.waitFor({ state: "detached", timeout: 8000 }).catch(() => {});
    }
    await this.replaced(before);
    return this.opened(name);
  }

  /** How the graph is seen that has just been opened; all of it is in sight afterwards. */
  async opened(name) {
    const seen = await this.rest(() => this.view(), 500);
    await this.whole(`opened-${name}`);
    await this.fit();
    return seen;
  }

  /** Lets a file fall on the canvas, and shows all of it. */
  async drop(path) {
    await this.open_file(path);
    await this.fit();
  }

  /** Lets a file fall on the canvas. */
  async open_file(path) {
    const before = await this.page.evaluate(() => window.app.graph.id);
    await this.page.evaluate(
      ([name, text]) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([text], name, { type: "application/json" }));
        for (const type of ["dragover", "drop"]) {
          const event = new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true });
          document.querySelector("#graph-canvas").dispatchEvent(event);
        }
      },
      [path.split("/").at(-1), readFileSync(path, "utf8")],
    );
    await this.replaced(before);
  }

  /** Until another graph is there. */
  async replaced(before) {
    await this.page.waitForFunction((id) => window.app.graph.id !== id, before, { timeout: 60_000 });
    await this.page.waitForTimeout(500);
  }

  /** The whole graph in sight, at rest. */
  async fit() {
    await this.page.evaluate(() => window.app.canvas.canvas.clientWidth || window.app.extensionManager.command.execute("Comfy.ToggleLinear"));
    await this.page.waitForFunction(() => window.app.canvas.canvas.clientWidth > 0, null, { timeout: 20_000 });
    await this.page.evaluate(() => window.app.extensionManager.command.execute("Comfy.Canvas.FitView"));
    await this.rest(() => this.layout());
  }

  /** What `read` gives once it has given the same twice in a row, so many ms apart. */
  async rest(read, apart = 300) {
    let last;
    for (let i = 0; i < 40; i++) {
      await this.page.waitForTimeout(apart);
      const now = JSON.stringify(await read());
      if (now === last) break;
      last = now;
    }
    return JSON.parse(last);
  }

  /** Where everything is, in graph units: nodes as they are drawn, with their titles, and groups. */
  async layout() {
    return this.page.evaluate(() => {
      const { graph, canvas } = window.app;
      const drawn = (node) => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        if (!element) return [...node.boundingRect];
        const box = element.getBoundingClientRect();
        const at = canvas.canvas.getBoundingClientRect();
        const { scale, offset } = canvas.ds;
        const [x, y] = [(box.x - at.x) / scale - offset[0], (box.y - at.y) / scale - offset[1]];
        return [x, y, box.width / scale, box.height / scale].map(Math.round);
      };
      const known = (node) => node.type in window.LiteGraph.registered_node_types;
      return {
        nodes: graph._nodes.map((node) => ({ id: node.id, title: node.title, known: known(node), box: drawn(node) })),
        groups: graph._groups.map((group) => ({ title: group.title, box: [...group.pos, ...group.size] })),
      };
    });
  }

  /** How the graph is seen: boxes are [left, top, right, bottom] in pixels; "covered" by the page's bars, "cut" notes. */
  async view() {
    const { nodes } = await this.layout();
    const seen = await this.page.evaluate(() => {
      const { canvas, graph } = window.app;
      const { scale, offset } = canvas.ds;
      const [width, height] = [canvas.canvas.clientWidth, canvas.canvas.clientHeight];
      const box = ([x, y], [width, height]) => [x, y, x + width, y + height].map((value, i) => Math.round((value + offset[i % 2]) * scale));
      const notes = graph._nodes.filter((node) => node.type === "MarkdownNote").sort((a, b) => a.pos[1] - b.pos[1]);
      const groups = [...graph._groups].sort((a, b) => a.pos[0] - b.pos[0] || a.pos[1] - b.pos[1]);
      const loop = graph._nodes.filter((node) => /Distill3D_Optimize/.test(node.type)).sort((a, b) => a.pos[0] - b.pos[0])[0];
      const free = (x, y) => !document.elementFromPoint(x, y) || document.elementFromPoint(x, y).closest("#graph-canvas, [data-node-id], .dom-widget, .comfy-markdown");
      const under = ([left, top, right, bottom]) =>
        [0.1, 0.5, 0.9].some((x) => [0.1, 0.5, 0.9].some((y) => !free(left + x * (right - left), top + y * (bottom - top))));
      const titled = groups // as long as a group's title is, at its font of 24
        .map((group) => [group.title, box(group.pos, [Math.min(group.size[0], 14 * group.title.length), 34])])
        .filter(([, [left, top]]) => left < width && top < height / 2)
        .map(([title, [left, top, right, bottom]]) => [title, [left, top, Math.min(right, width - 1), bottom]]);
      const text = (node) => document.querySelector(`[data-node-id="${node.id}"] .comfy-markdown-content`) ?? node.widgets[0].element?.querySelector(".tiptap");
      const note = box([notes[0].pos[0], notes[0].pos[1] - 30], [notes[0].size[0], notes[0].size[1] + 30]);
      return {
        scale,
        app: width === 0, // the page's app mode has no canvas
        sides: [width, height],
        note,
        group: box(groups[0].pos, groups[0].size),
        loop: box((loop ?? groups[0]).pos, (loop ?? groups[0]).size),
        covered: [...titled, ["the note", note]].filter(([, at]) => under(at)).map(([title]) => title),
        cut: notes.filter((node) => text(node)?.scrollHeight > text(node)?.clientHeight + 1).map((node) => node.title),
      };
    });
    const grown = await this.page.evaluate((nodes) => { // Nodes 2.0 makes a note as high as its text
      const saved = (id) => window.app.graph.getNodeById(id);
      return nodes.filter(({ id, box }) => saved(id).type === "MarkdownNote" && box[3] > saved(id).size[1] + 34).map(({ title }) => title);
    }, nodes);
    return { ...seen, cut: [...seen.cut, ...grown], tallest: Math.max(...nodes.map((node) => node.box[3])) };
  }

  /** Sets widgets: {node type: {widget: value}}. */
  async set(values) {
    await this.page.evaluate((values) => {
      for (const node of window.app.graph._nodes) {
        for (const [name, value] of Object.entries(values[node.type] ?? {})) {
          const widget = node.widgets.find((widget) => widget.name === name);
          widget.value = value;
          widget.callback?.(value, window.app.canvas, node);
        }
      }
    }, values);
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

  /** Opens the help of the first node of that type by the i above it, and gives the element with its text. */
  async help(type) {
    const id = await this.page.evaluate((type) => window.app.graph._nodes.find((node) => node.type === type).id, type);
    await this.look_at(id);
    const title = await this.page.evaluate((id) => {
      const { canvas, graph } = window.app;
      canvas.deselectAll();
      canvas.selectNode(graph.getNodeById(id));
      return graph.getNodeById(id).title;
    }, id);
    const content = this.page.locator(".node-help-content", { hasText: title });
    // An open panel follows the selection, sooner or later; its button would close it.
    if (!(await this.page.locator(".node-help-content").count())) await this.page.getByTestId("info-button").click();
    await content.waitFor({ timeout: 20_000 });
    return content;
  }

  /** The viewer's box, [x, y, width, height], before and while the page lists the node's inputs beside the graph, if it can. */
  async beside(id) {
    const box = () => this.page.evaluate(() => {
      const { x, y, width, height } = document.querySelector(".distill3d .view").getBoundingClientRect();
      return [x, y, width, height].map(Math.round);
    });
    const list = (open) => this.page.evaluate((open) => window.app.extensionManager.setting.set("Comfy.RightSidePanel.IsOpen", open), open);
    await list(false);
    const before = await box();
    await this.page.evaluate((id) => (window.app.canvas.deselectAll(), window.app.canvas.selectNode(window.app.graph.getNodeById(id))), id);
    await list(true);
    await this.page.waitForTimeout(1000);
    await this.page.evaluate(() => window.app.canvas.setDirty(true, true)); // places are set when the graph is drawn
    await this.page.waitForTimeout(500);
    const boxes = [before, await box()];
    await this.whole(`${this.folder.split("/").at(-1)}-beside`);
    await list(false);
    await this.page.waitForTimeout(500);
    return boxes;
  }

  /** Until there are so many viewers. */
  async viewers(count = 1) {
    await this.page.waitForFunction((count) => document.querySelectorAll(".distill3d").length >= count, count, { timeout: 60_000 });
  }

  panel(place = 0) {
    return this.page.locator(".distill3d").nth(place);
  }

  async listen_for_end() {
    await this.page.evaluate(() => {
      window.ended = new Promise((done) => {
        for (const name of ["execution_success", "execution_error", "execution_interrupted"]) {
          window.app.api.addEventListener(name, () => done(name));
        }
      });
    });
  }

  async queue() {
    await this.listen_for_end();
    await this.page.getByRole("button", { name: /^Run$/ }).first().click();
  }

  async run() {
    await this.queue();
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

  /** A picture of the viewer alone: cut out of the page's, which does not wait for a busy page to come to rest. */
  async shot(place, path) {
    const clip = await this.panel(place).locator(".view").boundingBox();
    return this.page.screenshot({ clip, ...(path && { path }) });
  }

  async picture(name, place = 0) {
    await this.shot(place, `${this.folder}/${name}.png`);
    return `${name}.png`;
  }

  /** The whole page, for people: where somebody wants to see them, and of what failed. */
  async whole(name) {
    if (this.watched || name.endsWith("failure")) await this.page.screenshot({ path: `${this.folder}/${name}-page.png` });
  }

  async drag(dx, dy, { place = 0, button = "left" } = {}) {
    const box = await this.panel(place).locator(".view canvas").boundingBox();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    await this.page.mouse.move(x, y);
    await this.page.mouse.down({ button });
    await this.page.mouse.move(x + dx, y + dy, { steps: 5 });
    await this.page.mouse.up({ button });
    await this.settle(place);
  }

  async wheel(amount, place = 0) {
    const box = await this.panel(place).locator(".view canvas").boundingBox();
    await this.page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    await this.page.mouse.wheel(0, amount);
    await this.settle(place);
  }

  /** Fingers, from and to [x, y] from the viewer's middle, as the browser tells it of a touch screen. */
  async touch(from, to, place = 0) {
    const box = await this.panel(place).locator(".view canvas").boundingBox();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const screen = await this.page.context().newCDPSession(this.page);
    const send = (type, fingers) =>
      screen.send("Input.dispatchTouchEvent", {
        type,
        touchPoints: fingers.map(([dx, dy], id) => ({ x: x + dx, y: y + dy, id })),
      });
    await send("touchStart", from);
    for (const share of [0.3, 0.7, 1]) {
      await send("touchMove", from.map((start, i) => start.map((value, axis) => value + share * (to[i][axis] - value))));
    }
    await send("touchEnd", []);
    await this.settle(place);
  }

  async press(text, place = 0) {
    await this.panel(place).getByRole("button", { name: text }).click();
  }

  /** Until the viewer shows the same for a while: what was changed has been drawn, and sorted by the worker. */
  async settle(place = 0) {
    let before;
    for (let i = 0; i < 12; i++) {
      await this.page.waitForTimeout(350);
      const now = await this.shot(place);
      if (before?.equals(now)) return;
      before = now;
    }
  }
}
