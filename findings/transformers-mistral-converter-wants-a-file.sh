#!/usr/bin/env bash
# transformers 5.24.0: MistralConverter takes the path of a tekken.json as its first argument, vocab_file, and no vocabulary
# any more: MistralConverter(vocab=..., additional_special_tokens=...), right with 4.57, is a TypeError.
# ComfyUI 0.30.0 calls it so (comfy/text_encoders/flux.py, load_mistral_tokenizer) and allows every transformers from 4.50.3
# on: the text encoders of FLUX.2 dev and Ernie-Image cannot be loaded then. Cure: an older transformers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 4.57.1 5.24.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install -q "transformers==$version"
    "$work/$version/bin/python" - <<'PY'
import transformers

try:
    from transformers.integrations.mistral import MistralConverter
except ModuleNotFoundError:
    from transformers.models.pixtral.convert_pixtral_weights_to_hf import MistralConverter

vocab = {bytes([i]): i for i in range(256)}
try:
    MistralConverter(vocab=vocab, additional_special_tokens=[]).converted()
    found = "takes a vocabulary"
except TypeError as error:
    found = f"TypeError: {error}"
print(f"transformers {transformers.__version__}: {found}")
assert ("vocab_file" in found) == (transformers.__version__ == "5.24.0"), "no longer so"
PY
done
