// Whose a prompt is: the nodes of many graphs have the same ids, and what the server tells names only the prompt.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { once } from "./messages.mjs";

const UNKNOWN = "00000000-0000-0000-0000-000000000000"; // Clear Workflow leaves it, until the page is loaded again
const REMEMBERED = 50; // prompts

const queued = new Map(); // what this page has queued, by the prompt's id: {load, workflow, output}
let load = 0; // counts the graphs that the page has had

export const root = () => app.rootGraph ?? app.graph;

/** From now on the page shows another graph, or the same as it was at another time. */
export function graphLoaded() {
  load++;
}

export function rememberPrompts() {
  const before = api.queuePrompt;
  api.queuePrompt = async function (number, data, ...more) {
    const about = { load, workflow: data?.workflow?.id, output: data?.output };
    const answer = await before.call(this, number, data, ...more).catch(refused);
    if (answer?.prompt_id) queued.set(answer.prompt_id, about);
    for (const id of [...queued.keys()].slice(0, -REMEMBERED)) queued.delete(id);
    return answer;
  };
}

/** Tells the page once of what is wrong once. */
function refused(error) {
  for (const about of Object.values(error?.response?.node_errors ?? {})) {
    if (about.class_type?.startsWith("Distill3D_")) about.errors = once(about.errors);
  }
  throw error;
}

/**
 * A function that says of a node's id whether the prompt ran this node as it is on the page: of the same graph, fed by
 * the same nodes, with the same words. Numbers may have changed since. `about`: {workflow, output} where they are known;
 * `page`: gives the page's graph as it would be queued.
 */
export async function owner(prompt, about, page = () => app.graphToPrompt()) {
  const here = root()?.id;
  const known = queued.get(prompt);
  if (known?.load === load && known.workflow === here) return () => true;
  const { workflow, output } = about ?? known ?? (await running(prompt)) ?? {};
  const other = here && here !== workflow && here !== UNKNOWN && workflow !== UNKNOWN;
  if (!workflow || !output || other) return () => false; // a program's prompt is of no workflow
  const now = (await page()).output;
  return (id) => same(output, now, id);
}

/** What an entry of the server's history or queue says of its prompt. */
export function aboutOf([, , output, extra]) {
  return { workflow: extra?.extra_pnginfo?.workflow?.id, output };
}

async function running(prompt) {
  const { queue_running } = await (await api.fetchApi("/queue")).json();
  const entry = queue_running.find(([, id]) => id === prompt);
  return entry && aboutOf(entry);
}

function same(one, other, id, seen = new Set()) {
  if (seen.has(id)) return true;
  seen.add(id);
  const [a, b] = [one[id], other[id]];
  if (!a || a.class_type !== b?.class_type) return false;
  return Object.entries(a.inputs).every(([name, value]) => {
    const now = b.inputs[name];
    if (typeof value === "string") return value === now;
    if (!Array.isArray(value)) return true;
    return String(value) === String(now) && same(one, other, String(value[0]), seen);
  });
}
