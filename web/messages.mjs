// What went wrong, said in the node where it did: ComfyUI's page only says that something did, and where.

import { app } from "../../scripts/app.js";

const HEIGHT = 76; // graph units
const LENGTH = 1200; // characters

export const MESSAGE_STYLE = `
.distill3d-message { box-sizing: border-box; width: 100%; height: 100%; overflow: auto; padding: 5px 7px; border-radius: 5px;
  font: 12px/1.35 system-ui, sans-serif; white-space: pre-wrap; overflow-wrap: anywhere; user-select: text;
  color: #ffd9d4; background: #4a1613; border: 1px solid #b3372c; }
.distill3d-message.note { color: #ffe7b8; background: #463208; border-color: #b3832c; }
.distill3d-message:empty { display: none; }
`;

const shown = new Map(); // node: {undo, height}, what takes its message away again, and its height without

/** A widget at the node's end that is neither in prompts nor in saved workflows: `element`, at least so high. */
export function addElement(node, name, element, height) {
  const widget = node.addDOMWidget(name, `distill3d_${name}`, element, {
    serialize: false, // not in prompts
    hideOnZoom: false,
    hideInPanel: true, // the page's list of the selected node's inputs
    getMinHeight: () => height,
  });
  widget.serialize = false; // nor in saved workflows
  // Older pages list it there all the same, and set this to the list's width; without one the node's is taken.
  Object.defineProperty(widget, "width", { get: () => undefined, set() {} });
  return widget;
}

/** The element of a message, empty at first. */
export function messageElement() {
  const element = document.createElement("div");
  element.className = "distill3d-message";
  for (const name of ["pointerdown", "pointermove", "pointerup"]) {
    element.addEventListener(name, (event) => event.stopPropagation()); // to be selected and copied
  }
  return element;
}

/** Says it in the node: in `element`, which it has already, or else in a widget at its end, until `forget`. `kind` "note":
 * of what went well, but otherwise than was asked for. */
export function complain(node, text, element, kind) {
  forget(node);
  const said = text.trim().slice(0, LENGTH);
  if (!said) return;
  if (element) {
    element.textContent = said;
    shown.set(node, { undo: () => (element.textContent = ""), height: node.size[1] });
    return;
  }
  const own = messageElement();
  own.textContent = said;
  if (kind) own.classList.add(kind);
  const height = node.size[1];
  const widget = addElement(node, "message", own, HEIGHT);
  node.setSize([node.size[0], Math.max(height, node.computeSize()[1])]);
  const undo = () => {
    // The node of a subgraph shows the widget, but has only those of its inner nodes in its list.
    if (node.widgets.includes(widget)) {
      if (node.removeWidget) node.removeWidget(widget);
      else node.widgets.splice(node.widgets.indexOf(widget), 1);
    }
    widget.onRemove?.();
    own.remove();
    node.setSize([node.size[0], height]);
  };
  shown.set(node, { undo, height });
  app.graph?.setDirtyCanvas(true, true);
}

export function forget(node) {
  shown.get(node)?.undo();
  shown.delete(node);
}

/** Workflows are saved as if the node said nothing. */
export function saveWithout(node, saved) {
  const height = shown.get(node)?.height;
  if (height && saved.size) saved.size = [saved.size[0], height];
}

export function forgetAll() {
  for (const node of [...shown.keys()]) forget(node);
}

/** Leaves one of equal complaints: the check of a whole node is repeated for each of its inputs. It is about the input that
 * its text names first. */
export function once(errors) {
  const kept = new Map();
  for (const error of errors) {
    const text = error.details?.split(" - ").slice(1).join(" - ");
    const input = error.extra_info?.input_name;
    const place = text?.search(new RegExp(`\\b${input}\\b`)) ?? -1;
    const key = error.type === "custom_validation_failed" && text ? text : Symbol();
    const before = kept.get(key);
    if (!before || (place >= 0 && (before.place < 0 || place < before.place))) kept.set(key, { error, place });
  }
  return [...kept.values()].map(({ error }) => error);
}

/** The server's complaints about a node's inputs, each in one line that begins with the input's name. */
export function refusals({ errors }) {
  const lines = errors.map(({ type, message, details = "", extra_info }) => {
    const input = extra_info?.input_name;
    if (type === "custom_validation_failed") return details.slice(details.indexOf(" - ") + 3) || message;
    if (type === "value_not_in_list") return `${details || input}.`;
    return input ? `${input}: ${message}` : [message, details].filter(Boolean).join(": ");
  });
  return [...new Set(lines)].join("\n");
}
