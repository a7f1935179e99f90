"""Tables of image models: what a family answers, what a step takes, the embedded prior's forms."""

from __future__ import annotations

from table_format import RESULTS, change, grid, result, table

NOT_YET = "Not measured yet.\n"
MODELS = {
    "z_image": "Z-Image",
    "klein": "FLUX.2 klein",
    "qwen_image_fp8": "Qwen-Image, scaled fp8",
    "krea2": "Krea 2",
    "anima": "Anima",
    "chroma": "Chroma",
    "chroma_radiance": "Chroma Radiance, pixels",
}
FORMS = {
    "flow": "rectified flow, shift 3",
    "reversed flow": "the same, its time backwards",
    "rgba": "VAE with alpha",
}


@table
def image_models() -> str:
    """What tests/comfyui/test_families.py found of each family."""
    lines = []
    for row in result("image_models")["rows"]:
        channels, pixels, dimensions = row["latent"]
        latent = "pixels" if pixels == 1 else f"{channels} x 1/{pixels}"
        short, long, none = row["tokens"]
        losses = ", ".join(name for name in ("SDS", "CDS", "VDM") if name in row["moved"])
        lines.append(
            [
                row["model"],
                row["class"],
                row["predicts"] + (f", {row['levels']} levels" if row["levels"] else ""),
                latent + (", one frame" if dimensions == 3 else ""),
                str(short) if short == long == none else f"{short}, {long}, {none}",
                f"{row['apart']:.0e}",
                losses,
            ]
        )
    titles = ("Model", "ComfyUI's class", "Predicts", "Latents", "Tokens", "Apart", "Moved by")
    return grid(titles, lines)


@table
def image_models_gpu() -> str:
    """What tests/benchmarks/image_models.py found."""
    if not (RESULTS / "image_models_gpu.json").is_file():
        return NOT_YET
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in result("image_models_gpu")["rows"]:
        found.setdefault((row["model"], row["flags"]), {})[row["loss"]] = row
    lines = []
    for (model, flags), rows in sorted(found.items(), key=lambda each: [*MODELS].index(each[0][0])):
        name = MODELS[model] + (f", `{flags}`" if flags else "")
        steps = [rows.get(loss, {}) for loss in ("SDS", "CDS")]
        lines.append(
            [
                name,
                f"{steps[0]['billions']:.1f}",
                f"{steps[0]['weights_gb']:.1f}",
                *(f"{step['step_ms']:.0f}" if "step_ms" in step else "too large" for step in steps),
                *(
                    f"{step['allocated_gb']:.1f}" if "allocated_gb" in step else ""
                    for step in steps[:1]
                ),
            ]
        )
    titles = ("Model", "Weights, 10^9", "GB of weights", "SDS, ms", "CDS, ms", "SDS, GB at most")
    return grid(titles, lines)


@table
def prior_forms() -> str:
    """What quality.py --form found, beside the prior as it is, on the same captions and seeds."""
    if not (RESULTS / "prior_forms.json").is_file():
        return NOT_YET
    found = result("prior_forms")["forms"]
    lines = [
        [text, loss.upper(), *(change(*each[name], digits)
         for name, digits in (("iou", 3), ("psnr", 2)))]
        for form, text in FORMS.items()
        for loss, each in found.get(form, {}).items()
    ]  # fmt: skip
    return grid(("Form", "Loss", "IoU", "PSNR, dB"), lines, texts=2)
