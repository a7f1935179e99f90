// A preset fills a node's inputs with its values; when one of them is changed by hand, it says which they are now.

const KEY = "distill3d_presets"; // in the preset's entry of the node's definition, from nodes/shared/presets.py

/** {preset: {input: value}} of a node's definition. */
export function presetsOf({ input }) {
  return { ...input?.required, ...input?.optional }.preset?.[1]?.[KEY];
}

export function fillFromPresets(node, presets) {
  const preset = node.widgets?.find((widget) => widget.name === "preset");
  if (!preset || !presets) return;
  const others = node.widgets.filter((widget) => Object.values(presets).some((values) => widget.name in values));
  let filling = false;
  after(preset, () => {
    const values = presets[preset.value];
    if (!values) return;
    filling = true;
    for (const widget of others) {
      if (!(widget.name in values) || widget.value === values[widget.name]) continue;
      widget.value = values[widget.name];
      widget.callback?.(widget.value);
      widget.value = values[widget.name]; // which the callback may have rounded to its steps
    }
    filling = false;
    node.setDirtyCanvas?.(true, true);
  });
  for (const widget of others) {
    after(widget, () => {
      if (!filling) preset.value = named() ?? "custom";
    });
  }
  const named = () =>
    Object.keys(presets).find((name) =>
      others.every((widget) => !(widget.name in presets[name]) || widget.value === presets[name][widget.name]),
    );
}

/** The widget's value is set before its callback is called. */
function after(widget, act) {
  const before = widget.callback;
  widget.callback = function (...values) {
    const result = before?.apply(this, values);
    act();
    return result;
  };
}
