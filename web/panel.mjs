// The widget: a viewer, its buttons, and what the run says about itself.

import { decode } from "./message.mjs";
import { messageElement } from "./messages.mjs";
import { say } from "./words.mjs";

const CHECKS = "repeating-conic-gradient(#777 0 25%, #999 0 50%) 0 0 / 24px 24px";
const BACKGROUNDS = { gray: "#808080", white: "#ffffff", black: "#000000", checks: CHECKS };
const PROPERTIES = { background: "distill3d background", turn: "distill3d turntable" }; // saved with the workflow

export const STYLE = `
.distill3d { display: flex; flex-direction: column; gap: 4px; width: 100%; height: 100%; min-height: 0;
  container-type: inline-size; box-sizing: border-box; font: 12px/1.35 system-ui, sans-serif; color: var(--input-text, #ddd); }
.distill3d .view { position: relative; flex: 1000 1 0; min-height: 120px; border-radius: 6px; overflow: hidden; }
.distill3d .view canvas { position: absolute; inset: 0; width: 100%; height: 100%; display: block; cursor: grab;
  touch-action: none; outline: none; }
.distill3d .view canvas:active { cursor: grabbing; }
.distill3d .hint { position: absolute; inset: 0; display: flex; align-items: center; justify-content: center;
  padding: 16px; text-align: center; color: #222; pointer-events: none; }
.distill3d .row { display: flex; gap: 4px; align-items: center; flex-wrap: wrap; }
.distill3d button { font: inherit; color: inherit; background: var(--comfy-input-bg, #333);
  border: 1px solid var(--border-color, #555); border-radius: 5px; padding: 3px 7px; cursor: pointer; }
.distill3d button:hover:not(:disabled) { filter: brightness(1.25); }
.distill3d button.on { border-color: #6ea8fe; color: #9cc4ff; }
.distill3d button.stop, .distill3d button.anew { margin-left: auto; }
.distill3d button[hidden] { display: none; }
.distill3d button.stop:not(:disabled) { background: #7a3b12; border-color: #c2702f; color: #fff; }
.distill3d button:disabled { opacity: 0.45; cursor: default; }
.distill3d .distill3d-message { flex: none; height: auto; max-height: 40%; }
.distill3d .facts { min-height: 2.7em; font-variant-numeric: tabular-nums; }
.distill3d .facts div { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.distill3d:has(.chart) .view { max-height: 130cqw; } /* or its buttons would be out of sight in a very high node */
.distill3d .chart { position: relative; flex: none; height: 56px; }
.distill3d .chart span { position: absolute; left: 2px; font-size: 10px; opacity: 0.7; pointer-events: none; }
.distill3d .chart .high { top: 0; }
.distill3d .chart .low { bottom: 2px; }
.distill3d .curve { position: absolute; inset: 0; height: 100%; width: 100%; display: block; }
.distill3d .curve polyline { fill: none; stroke: #6ea8fe; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.distill3d .curve line { stroke: var(--border-color, #555); vector-effect: non-scaling-stroke; }
`;

export class Panel {
  /** `node`: of the graph. `stop`, `anew`: called by Stop and keep and Run all steps; without them there is no curve. */
  constructor(node, stop, anew) {
    this.node = node;
    this.step = 0; // that is shown
    this.element = make("div", { className: "distill3d" });
    this.view = make("div", { className: "view" });
    const canvas = make("canvas", { tabIndex: -1 });
    this.hint = make("div", { className: "hint", textContent: hint(stop) });
    this.view.append(canvas, this.hint);
    this.turn = button("Turntable", "Turn the object round and round", () => this.set("turn", !this.get("turn")));
    this.ground = button("Background", "Gray, white, black, or checks where nothing is", () => this.nextBackground());
    this.home = button("Reset", "Look from the front again (or double-click)", () => this.reset());
    this.row = make("div", { className: "row" });
    this.row.append(this.turn, this.ground, this.home);
    this.facts = make("div", { className: "facts" });
    this.message = messageElement();
    this.element.append(this.view, this.message, this.row, this.facts);
    if (stop) {
      const tip = "End this node after the step it is at and let the graph go on with the cloud so far";
      this.stop = button("Stop and keep", tip, async () => {
        this.stopping(true);
        try {
          if (!(await stop()).ok) throw new Error("it does not run");
        } catch {
          this.stopping(false); // the server was not reached: to be pressed again
        }
      });
      this.stop.className = "stop";
      this.stop.disabled = true;
      const all = "Run this node anew and to its last step, instead of using the cloud that was kept";
      this.anew = button("Run all steps", all, anew);
      this.anew.className = "anew";
      this.anew.hidden = true;
      this.row.append(this.stop, this.anew);
      this.curve = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      this.curve.setAttribute("class", "curve");
      this.curve.setAttribute("viewBox", "0 0 100 100");
      this.curve.setAttribute("preserveAspectRatio", "none");
      this.chart = make("div", { className: "chart" });
      this.chart.append(this.curve, make("span", { className: "high" }), make("span", { className: "low" }));
      this.element.append(this.chart);
    }
    this.canvas = canvas;
    // The graph must not drag nodes, or zoom, by what happens here.
    for (const name of ["pointerdown", "pointerup", "pointermove", "dblclick"]) {
      this.row.addEventListener(name, (event) => event.stopPropagation());
    }
    this.applied();
  }

  get(name) {
    return this.node.properties?.[PROPERTIES[name]];
  }

  set(name, value) {
    this.node.properties ??= {};
    this.node.properties[PROPERTIES[name]] = value;
    this.applied();
  }

  /** Brings the view in line with the node's properties. */
  applied() {
    const turning = Boolean(this.get("turn"));
    this.turn.classList.toggle("on", turning);
    this.viewer?.turn(turning);
    this.view.style.background = BACKGROUNDS[this.get("background")] ?? BACKGROUNDS.gray;
  }

  nextBackground() {
    const names = Object.keys(BACKGROUNDS);
    this.set("background", names[(names.indexOf(this.get("background") ?? "gray") + 1) % names.length]);
  }

  reset() {
    this.viewer?.orbit.reset();
    this.viewer?.wake();
  }

  /** Says that the step which is under way is the last. */
  stopping(so) {
    this.stop.disabled = so;
    this.ending = so;
    this.tell(this.about);
  }

  started() {
    this.running = true;
    this.ending = false;
    this.partial = undefined;
    this.step = this.element.dataset.step = 0;
    this.about = undefined;
    if (this.stop) this.stop.disabled = false;
    this.tell();
  }

  /** `partial`: where the cloud of a run is that did not end well. */
  ended(partial) {
    this.running = this.ending = false;
    this.partial = partial;
    if (this.stop) this.stop.disabled = true;
    this.tell(this.about);
  }

  /** Shows a message of the server's. */
  async show(buffer) {
    const cloud = decode(buffer);
    this.step = cloud.about.step ?? 0;
    this.tell(cloud.about);
    // Only now, so that the page has nothing to wait for when it loads.
    const { Viewer } = await import("./viewer.mjs");
    if (this.disposed) return;
    if (Viewer.supported) {
      this.viewer ??= new Viewer(this.canvas);
      this.viewer.show(cloud);
      this.applied();
      this.hint.style.display = "none";
    } else {
      this.hint.textContent = say("This browser has no WebGL 2, so the cloud cannot be shown here.");
    }
    Object.assign(this.element.dataset, { step: this.step, shown: cloud.about.shown });
  }

  /** `about`: what a message says; nothing before the first one. */
  tell(about) {
    this.about = about;
    const lines = about ? facts(about, this.running) : this.running ? [say("starting ...")] : [];
    if (this.ending) lines.push(say("Stopping: this step is the last. The cloud is kept, and the graph goes on with it."));
    if (this.partial) lines.push(kept(this.partial));
    if (this.offer()) lines.push(say("Run uses this cloud as it is and does not continue it. Run all steps starts over."));
    this.say(lines);
    if (this.chart && about) draw(this.chart, about.losses ?? []);
  }

  /** Offers the steps that are missing in what was kept, in place of a stop; whether it does. */
  offer() {
    const early = Boolean(this.anew && !this.running && this.about?.stopped);
    if (this.anew) [this.anew.hidden, this.stop.hidden] = [!early, early];
    return early;
  }

  say(lines) {
    this.facts.replaceChildren(...lines.map((line) => make("div", { textContent: line, title: line })));
  }

  dispose() {
    this.disposed = true;
    this.running = false;
    clearTimeout(this.timer);
    this.viewer?.dispose();
  }
}

/** What a message says, in a line or two. */
function facts(about, running) {
  const number = (count) => count.toLocaleString("en");
  const counted = say(about.count === 1 ? "{0} Gaussian" : "{0} Gaussians", number(about.count));
  const cloud = counted + (about.shown < about.count ? ` ${say("({0} drawn)", number(about.shown))}` : "");
  if (!about.step) return [cloud];
  const pace = about.seconds / about.step;
  const loss = about.losses?.filter((value) => value !== null).at(-1);
  const [pattern, time] = running ? ["{0} left", pace * (about.steps - about.step)] : ["took {0}", about.seconds];
  const ended = about.stopped && !running ? `, ${say("stopped and kept")}` : "";
  const shares = [cloud, say("{0} a step", duration(pace)), ...(loss === undefined ? [] : [say("loss {0}", loss.toPrecision(3))])];
  return [`${say("step {0} of {1}", about.step, about.steps)}${ended} · ${say(pattern, duration(time))}`, shares.join(" · ")];
}

function kept(path) {
  return say("Ended early; the cloud so far is in {0}", path);
}

function duration(seconds) {
  if (seconds < 1) return say("{0} ms", Math.round(1000 * seconds));
  if (seconds < 10) return say("{0} s", seconds.toFixed(1));
  if (seconds < 90) return say("{0} s", Math.round(seconds));
  if (seconds < 5400) return say("{0} min", Math.round(seconds / 60));
  return say("{0} h", (seconds / 3600).toFixed(1));
}

function draw(chart, losses) {
  const [svg, top, bottom] = chart.children;
  const values = losses.filter((value) => value !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const points = losses.map((value, i) => {
    if (value === null) return "";
    const x = losses.length > 1 ? (100 * i) / (losses.length - 1) : 0;
    return `${x.toFixed(2)},${(96 - (92 * (value - low)) / (high - low || 1)).toFixed(2)}`;
  });
  svg.innerHTML =
    '<line x1="0" y1="99" x2="100" y2="99"/>' +
    (values.length > 1 ? `<polyline points="${points.join(" ")}"/><title>${say("loss {0} to {1}", low, high)}</title>` : "");
  [top.textContent, bottom.textContent] = values.length > 1 ? [high.toPrecision(3), low.toPrecision(3)] : ["", ""];
}

function hint(stop) {
  return say(stop ? "The cloud grows here while this node runs." : "Run the graph to see the cloud here.");
}

function make(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

function button(text, title, act) {
  const made = make("button", { type: "button", textContent: say(text), title: say(title) });
  made.addEventListener("click", (event) => {
    event.stopPropagation();
    act();
  });
  return made;
}
