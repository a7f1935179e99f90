// Distill3D in ComfyUI's page: a viewer in Optimize N Steps and in Preview Gaussians, and in every node what went wrong.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { hideAdvanced } from "./advanced.mjs";
import { colorSockets, ownTypes } from "./colors.mjs";
import { addElement, complain, forget, forgetAll, MESSAGE_STYLE, refusals, saveWithout } from "./messages.mjs";
import { Panel, STYLE } from "./panel.mjs";
import { fillFromPresets, presetsOf } from "./presets.mjs";
import { aboutOf, graphLoaded, owner, rememberPrompts, root } from "./prompts.mjs";
import { listTemplates, openView, rememberView } from "./templates.mjs";
import { translate } from "./translate.mjs";

const OPTIMIZE = "Distill3D_Optimize";
const KINDS = [OPTIMIZE, "Distill3D_PreviewGaussians"];
// say what became of a file otherwise than was asked for, or what it does not say
const TELLING = [
  "Distill3D_ExportMesh", "Distill3D_LoadGaussians", "Distill3D_InitMesh",
  OPTIMIZE, "Distill3D_RefineMesh", "Distill3D_Recover",
];
const HEIGHT = 310; // graph units, the least of the widget
const WIDTH = 360;
const PATIENCE = 10_000; // ms without an event after which a running node is asked all the same
const PEEK = 1_000; // ms between looks whether a running node's viewer can be seen again
const HISTORY = 20; // prompts to look through for results

const panels = new Map(); // by node
const types = new Set(); // of the pack's sockets
const presets = new Map(); // by node type
const shells = new WeakSet(); // subgraphs' nodes that have said something
const over = new Set(); // "prompt node" of every run whose end was told

/** The node behind an id of the server's, which for one in a subgraph is "outer:inner". */
function nodeOf(id) {
  let graph = root();
  const parts = String(id).split(":");
  for (const part of parts.slice(0, -1)) graph = graph?.getNodeById(Number(part))?.subgraph;
  return graph?.getNodeById(Number(parts.at(-1)));
}

/** The panel of the server's node, if the page shows that node's run. */
function panelOf(id, prompt) {
  const panel = panels.get(nodeOf(id));
  return panel?.prompt === prompt ? panel : undefined;
}

function addPanel(node) {
  const acts = [() => api.fetchApi(`/distill3d/stop/${panel.id}`, { method: "POST" }), () => runAnew(panel).catch(report)];
  const panel = new Panel(node, ...(node.comfyClass === OPTIMIZE ? acts : []));
  panels.set(node, panel);
  addElement(node, "viewer", panel.element, HEIGHT);
  toFront(node);
  node.setSize?.([Math.max(node.size[0], WIDTH), Math.max(node.size[1], node.computeSize()[1])]);
  chain(node, "onConfigure", () => panel.applied());
  chain(node, "onRemoved", () => {
    panels.delete(node);
    panel.dispose();
  });
}

/** Moves the last widget, the viewer, above the others: below them it would be out of sight. */
function toFront(node) {
  node.widgets.unshift(node.widgets.pop());
  chain(node, "onSerialize", (saved) => {
    // Values are saved by place, with a gap for a widget that is not saved, but read without one.
    const last = node.widgets.findLastIndex((widget) => widget.serialize !== false);
    if (saved.widgets_values?.length === last + 1) saved.widgets_values.shift();
  });
}

function chain(node, name, act) {
  const before = node[name];
  node[name] = function (...values) {
    const result = before?.apply(this, values);
    act(...values);
    return result;
  };
}

/** Queues the graph so that this node does all its steps, though the server has a cloud of it that was kept. */
async function runAnew(panel) {
  const inputs = (await app.graphToPrompt()).output[panel.id]?.inputs;
  if (!inputs) return; // muted
  await api.fetchApi(`/distill3d/anew/${panel.id}`, { method: "POST", body: JSON.stringify(inputs) });
  await app.queuePrompt(0, 1);
}

async function executed({ node: inner, display_node, output, prompt_id }) {
  const id = display_node ?? inner;
  const node = nodeOf(id);
  if (!node?.comfyClass?.startsWith("Distill3D_") || !(await owner(prompt_id))(id)) return;
  if (TELLING.includes(node.comfyClass) && output?.text) complain(node, output.text.join("\n"), undefined, "note");
  const panel = panels.get(node);
  if (!panel || !output?.distill3d) return;
  panel.prompt = prompt_id;
  await showFile(panel, output.distill3d[0]);
}

function report(error) {
  console.warn("Distill3D: the server did not answer:", error);
}

/** Whether it is drawn: not in a closed subgraph, a collapsed node, or far outside what the page shows. */
function visible(panel) {
  return panel.element.isConnected && panel.element.getClientRects().length > 0;
}

/** Shows the cloud that a finished node left. */
async function showFile(panel, record) {
  if (!record || panel.file === record.filename) return;
  panel.file = record.filename;
  const { filename, subfolder, type } = record;
  const answer = await api.fetchApi(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  if (answer.ok) await panel.show(await answer.arrayBuffer());
  else panel.file = undefined; // ComfyUI empties its temp folder when it starts
}

/** Asks for pictures of a running node, one at a time, for as long as there are new ones and they can be seen. */
async function follow(panel) {
  panel.again = true;
  if (panel.asking) return;
  panel.asking = true;
  try {
    while (panel.again && panel.running && visible(panel) && panels.get(panel.node) === panel) {
      panel.again = false;
      const answer = await api.fetchApi(`/distill3d/live/${panel.id}?after=${panel.step}`);
      if (answer.status === 200) {
        await panel.show(await answer.arrayBuffer());
        await new Promise((drawn) => setTimeout(() => requestAnimationFrame(drawn), 30));
        panel.again = true; // asks for the next, which is not there yet, or for one that has come meanwhile
      }
    }
  } catch (error) {
    report(error); // and asks again later
  }
  panel.asking = false;
  clearTimeout(panel.timer);
  const pause = visible(panel) ? PATIENCE : PEEK;
  if (panel.running && panels.get(panel.node) === panel) panel.timer = setTimeout(() => follow(panel), pause);
}

/** A node has begun: joins in if it is on the page. */
async function begin({ node: id, prompt }) {
  const panel = panels.get(nodeOf(id));
  if (!panel || !(await owner(prompt))(id) || over.has(`${prompt} ${id}`)) return;
  panel.id = id;
  panel.prompt = prompt;
  panel.file = undefined;
  panel.started();
  follow(panel);
}

/** Says it in the node of that id, and in those that it lies within; `kind` guards against another graph's node. */
function complainIn(id, kind, text) {
  const node = nodeOf(id);
  if (node?.comfyClass !== kind || !kind?.startsWith("Distill3D_")) return;
  complain(node, text, panels.get(node)?.message);
  const parts = String(id).split(":");
  for (let depth = 1; depth < parts.length; depth++) {
    const outer = nodeOf(parts.slice(0, depth).join(":"));
    if (!outer || !text.trim()) continue;
    if (!shells.has(outer)) chain(outer, "onSerialize", (saved) => saveWithout(outer, saved));
    shells.add(outer);
    complain(outer, `${node.title}: ${text}`);
  }
}

/** A prompt is being queued: what was said about the last one is past, and what the server refuses comes soon. */
function listenForRefusal() {
  forgetAll();
  const end = performance.now() + PATIENCE;
  const look = () => {
    const refused = Object.entries(app.lastNodeErrors ?? {});
    for (const [id, about] of refused) complainIn(id, about.class_type, refusals(about));
    if (!refused.length && performance.now() < end) setTimeout(look, 200);
  };
  setTimeout(look, 200);
}

async function failed({ prompt_id, node_id, node_type, exception_message }, ...about) {
  if ((await owner(prompt_id, ...about))(node_id)) complainIn(node_id, node_type, exception_message ?? "");
}

/** After the page or a workflow was loaded: joins what runs, and shows what ran last. */
async function restore() {
  const own = root()?._nodes?.some((node) => node.comfyClass?.startsWith("Distill3D_") || node.subgraph);
  if (!panels.size && !own) return;
  const running = await (await api.fetchApi("/distill3d/live")).json();
  for (const run of Object.values(running)) await begin(run);
  const entries = Object.values(await (await api.fetchApi(`/history?max_items=${HISTORY}`)).json());
  let newest = true;
  const exported = new Set();
  let graph;
  const page = () => (graph ??= app.graphToPrompt());
  for (const { prompt, outputs, status } of entries.sort((a, b) => ended(b) - ended(a))) {
    const about = aboutOf(prompt);
    const owns = await owner(prompt[1], about, page);
    if (newest && Object.keys(about.output).some(owns)) {
      newest = false;
      for (const [name, detail] of status?.messages ?? []) if (name === "execution_error") await failed(detail, about, page);
    }
    for (const [id, output] of Object.entries(outputs ?? {})) {
      const node = nodeOf(id);
      const panel = panels.get(node);
      if (TELLING.includes(node?.comfyClass) && output?.text && !exported.has(node) && owns(id)) {
        exported.add(node);
        complain(node, output.text.join("\n"), undefined, "note");
      }
      if (!panel || !output?.distill3d || panel.file || panel.running || !owns(id)) continue;
      panel.id ??= id;
      panel.prompt = prompt[1];
      await showFile(panel, output.distill3d[0]);
    }
  }
}

/** When an entry of the history came to its end, ms. */
function ended({ status }) {
  return Math.max(0, ...(status?.messages ?? []).map(([, detail]) => detail?.timestamp ?? 0));
}

/** The page takes wheel and two fingers anywhere for its graph, before the viewer would hear of them. */
function keepForViewer() {
  const within = (event) => event.target.closest?.(".distill3d .view canvas");
  for (const name of ["touchstart", "touchmove", "touchend", "touchcancel"]) {
    const act = (event) => within(event) && event.stopPropagation(); // pointer events remain
    window.addEventListener(name, act, { capture: true, passive: true });
  }
  const turned = (event) => {
    const canvas = within(event);
    if (!canvas) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    canvas.dispatchEvent(new CustomEvent("distill3d.wheel", { detail: event.deltaY }));
  };
  window.addEventListener("wheel", turned, { capture: true, passive: false });
}

app.registerExtension({
  name: "Distill3D.viewer",

  beforeRegisterNodeDef(_, definition) {
    if (!definition.name?.startsWith("Distill3D_")) return;
    for (const type of ownTypes(definition)) types.add(type);
    presets.set(definition.name, presetsOf(definition));
  },

  setup() {
    colorSockets(types);
    document.head.append(Object.assign(document.createElement("style"), { textContent: STYLE + MESSAGE_STYLE }));
    keepForViewer();
    rememberPrompts();
    listTemplates();
    api.addEventListener("distill3d.start", ({ detail }) => begin(detail).catch(report));
    api.addEventListener("distill3d.frame", ({ detail }) => {
      const panel = panelOf(detail.node, detail.prompt);
      if (panel?.running) follow(panel);
    });
    api.addEventListener("distill3d.end", ({ detail }) => {
      over.add(`${detail.prompt} ${detail.node}`);
      panelOf(detail.node, detail.prompt)?.ended(detail.partial);
    });
    api.addEventListener("executed", ({ detail }) => executed(detail).catch(report));
    api.addEventListener("promptQueueing", listenForRefusal);
    api.addEventListener("execution_error", ({ detail }) => failed(detail).catch(report));
    api.addEventListener("reconnected", () => {
      for (const panel of panels.values()) if (panel.running) panel.ended(); // restore() begins it anew if it runs
      restore().catch(report);
    });
  },

  nodeCreated(node) {
    if (KINDS.includes(node.comfyClass)) addPanel(node);
    if (!node.comfyClass?.startsWith("Distill3D_")) return;
    hideAdvanced(node);
    fillFromPresets(node, presets.get(node.comfyClass));
    for (const name of ["onWidgetChanged", "onRemoved"]) chain(node, name, () => forget(node));
    chain(node, "onSerialize", (saved) => saveWithout(node, saved));
  },

  async beforeConfigureGraph(graph) {
    rememberView();
    await translate(graph).catch(report);
  },

  afterConfigureGraph() {
    openView(root());
    graphLoaded();
    restore().catch((error) => console.warn("Distill3D: earlier results could not be shown again:", error));
  },
});
