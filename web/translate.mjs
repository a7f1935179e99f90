// The shipped workflows in the page's language: titles and notes that stand as they were shipped.

import { language } from "./words.mjs";

/** Changes a workflow, as saved, before the page reads it; what a person has written stays. */
export async function translate(graph) {
  const own = graph?.nodes?.some((node) => node.type?.startsWith("Distill3D_")) || graph?.definitions?.subgraphs?.length;
  if (language() !== "zh" || !own) return;
  const { titles, notes } = await (await fetch(new URL("./workflows.zh.json", import.meta.url))).json();
  for (const each of [...(graph.groups ?? []), ...graph.nodes]) if (titles[each.title]) each.title = titles[each.title];
  for (const { type, widgets_values: values } of graph.nodes) if (type === "MarkdownNote" && notes[values?.[0]]) values[0] = notes[values[0]];
}
