// Advanced inputs are hidden on the classic canvas too, as Nodes 2.0 does by itself; a button shows them.

import { app } from "../../scripts/app.js";
import { say } from "./words.mjs";

const PROPERTY = "distill3d advanced"; // saved with the workflow
const ALWAYS = "Comfy.Node.AlwaysShowAdvancedWidgets";

/** Hides the node's advanced widgets, but for those that are linked, and makes it as high as what is left. */
export function hideAdvanced(node) {
  const apart = (node.widgets ?? []).filter((widget) => widget.options?.advanced);
  if (!apart.length || app.extensionManager?.setting.get(ALWAYS)) return;
  const sort = () => {
    for (const widget of apart) widget.advanced = !linked(node, widget);
    const hidden = apart.filter((widget) => widget.advanced).length;
    button.label = node.showAdvanced ? say("Hide advanced inputs") : say("Show {0} advanced inputs", hidden);
    button.hidden = !hidden;
  };
  const show = (on) => {
    const [width, height] = node.size;
    if (on) node.heightWithout = height;
    node.showAdvanced = on;
    node.properties[PROPERTY] = on || undefined;
    sort();
    const least = node.computeSize()[1];
    node.setSize([width, on ? Math.max(least, height) : Math.max(least, node.heightWithout ?? 0)]);
    node.setDirtyCanvas?.(true, true);
  };
  const button = addButton(node, () => show(!node.showAdvanced));
  node.toggleAdvanced = () => show(!node.showAdvanced); // the page's menu has an entry for it
  leaveOut(node);
  after(node, "onConfigure", () => {
    node.showAdvanced = Boolean(node.properties?.[PROPERTY]);
    sort();
  });
  after(node, "onConnectionsChange", () => sort());
  sort();
  node.setSize([node.size[0], node.computeSize()[1]]);
}

function linked(node, widget) {
  const place = node.inputs?.findIndex((slot) => slot.widget?.name === widget.name) ?? -1;
  return place >= 0 && node.inputs[place].link != null;
}

/** At the node's end; of the classic canvas alone, and neither in prompts nor in saved workflows. */
function addButton(node, act) {
  const button = node.addWidget("button", "advanced", null, act, { canvasOnly: true, hideInPanel: true, serialize: false });
  button.serialize = false;
  return button;
}

/** The page leaves the room of what it does not show. */
function leaveOut(node) {
  const before = node.getLayoutWidgets;
  if (!before) return;
  node.getLayoutWidgets = function () {
    return before.call(this).filter((widget) => !widget.advanced || this.showAdvanced);
  };
}

function after(node, name, act) {
  const before = node[name];
  node[name] = function (...values) {
    const result = before?.apply(this, values);
    act();
    return result;
  };
}
