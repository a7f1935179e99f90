// Colours of the pack's own sockets and their links, on the classic canvas and in Nodes 2.0.

import { app } from "../../scripts/app.js";

const PREFIX = "DISTILL3D_";
const COLORS = {
  PRIOR: "#b48ef0",
  PROMPTS: "#f2a65a",
  CAMERAS: "#5ec4c4",
  GAUSSIANS: "#7fc96b",
  LOSS: "#ef7b7b",
  DEGRADATION_MAP: "#f2b3c6",
  LEARNING_RATES: "#d9c75a",
  PENALTIES: "#e08fd0",
  DENSIFICATION: "#a8d978",
  REFINING: "#8fb4f0",
  RUN_OPTIONS: "#b9b9c8",
  MESH_PENALTIES: "#c98fe0",
};

/** One of its own for every type, also for those that are not named above. */
export function colorOf(type) {
  const name = type.slice(PREFIX.length);
  const mixed = [...name].reduce((sum, letter) => (31 * sum + letter.charCodeAt(0)) % 360, 0);
  return COLORS[name] ?? `hsl(${mixed}, 60%, 68%)`;
}

/** The types of a node's definition that are the pack's own. */
export function ownTypes({ input, output }) {
  const inputs = Object.values({ ...input?.required, ...input?.optional }).map(([type]) => type);
  return [...inputs, ...(output ?? [])].filter((type) => typeof type === "string" && type.startsWith(PREFIX));
}

/** Colours these types; a palette that names one of them goes first, one that does not takes none away. */
export function colorSockets(types) {
  const rules = [...types].map((type) => `--color-datatype-${type}: ${colorOf(type)};`);
  document.head.append(Object.assign(document.createElement("style"), { textContent: `:root { ${rules.join(" ")} }` }));
  for (const table of [app.canvas?.default_connection_color_byType, app.canvas?.constructor.link_type_colors]) {
    if (!table) continue;
    for (const type of types) {
      let given = table[type];
      Object.defineProperty(table, type, {
        get: () => given || colorOf(type),
        set: (value) => (given = value),
        configurable: true,
        enumerable: true,
      });
    }
  }
}
