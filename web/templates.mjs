// The pack's workflows in the template browser: in order, with title and description, and found by the pack's name; and
// where a workflow opens. Without this the page shows the names of the files, in no order.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { language } from "./words.mjs";

const PREFIX = "distill3d_"; // of the files
const TITLE = "Distill3D";
const READABLE = 0.6; // of the canvas' scale; below it no text is drawn
const LATER = 600; // ms

/** Puts the pack's templates among the page's own categories, whose entries have titles and descriptions. */
export function listTemplates() {
  const [theirs, core] = [api.getWorkflowTemplates, api.getCoreWorkflowTemplates];
  if (!theirs || !core) return;
  const files = Promise.withResolvers?.() ?? withResolvers();
  api.getWorkflowTemplates = async function (...values) {
    const found = await theirs.apply(this, values);
    const folder = Object.keys(found).find((folder) => found[folder].includes(`${PREFIX}quickstart`));
    files.resolve([folder, found[folder]]);
    if (!folder) return found;
    const { [folder]: _, ...others } = found; // they would be listed twice
    return others;
  };
  api.getCoreWorkflowTemplates = async function (...values) {
    const categories = await core.apply(this, values);
    const [folder, names] = await files.promise;
    const there = categories.some(({ moduleName }) => moduleName === folder); // without a translation it calls itself
    return folder && !there ? [...categories, await category(folder, names)] : categories;
  };
}

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve) => (made.resolve = resolve));
  return made;
}

async function category(moduleName, names) {
  const known = await (await fetch(new URL("./templates.json", import.meta.url))).json();
  const zh = language() === "zh";
  const listed = known.map((each) => ({ ...each, name: PREFIX + each.name })).filter(({ name }) => names.includes(name));
  const others = names.filter((name) => !listed.some((each) => each.name === name)).map((name) => ({ name }));
  const templates = [...listed, ...others].map(({ name, title, description, zh_title, zh_description }) => ({
    name,
    title: (zh && zh_title) || title || name,
    description: (zh && zh_description) || description || name,
    mediaType: "image",
    mediaSubtype: "jpg",
    tags: ["3D", "distill3d", "text to 3d"],
    models: [],
  }));
  return { moduleName, title: TITLE, type: "3d", category: "3D", templates };
}

let before; // where the canvas looked when a graph began to load

const view = () => JSON.stringify([app.canvas?.ds.scale, ...(app.canvas?.ds.offset ?? [])]);

export function rememberView() {
  before = view();
}

/** Opens a template where its note and first group can be read: the page has just fitted in all of it. */
export function openView(graph) {
  const kept = graph?.extra?.ds;
  const ours = graph?._nodes?.some((node) => node.comfyClass?.startsWith("Distill3D_") || node.subgraph);
  if (!kept || !ours) return;
  const { ds } = app.canvas;
  const open = () => {
    ds.scale = kept.scale;
    ds.offset = [...kept.offset];
    app.canvas.setDirty(true, true);
  };
  if (view() !== before) open();
  // Out of its app mode the page fits when the canvas is there again.
  else setTimeout(() => graph === app.graph && view() !== before && ds.scale < READABLE && open(), LATER);
}
