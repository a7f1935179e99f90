#!/usr/bin/env bash
# torch 2.11.0 with the allocator cudaMallocAsync: the first convolution under torch.backends.cudnn.benchmark takes all
# of the device's free memory for a moment, whatever the convolution needs. Expected: the workspace of the algorithms that
# are tried. Seen on an H200 (CUDA 13.0) for 2 pictures of 64 channels and 64 x 64 pixels: a peak of 142,528 of 143,155 MiB
# reserved, 32 afterwards; with torch's own allocator a few hundred MiB. Other processes on the device fail with "out of
# memory" meanwhile, and what watches the free memory moves models off the device.
# ComfyUI starts with this allocator on NVIDIA GPUs. Needs one; ends with 77 where there is none.
set -euo pipefail
command -v nvidia-smi >/dev/null && nvidia-smi -L | grep -q GPU || { echo "no NVIDIA GPU here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "torch==2.11.0" numpy
cat >"$work/trial.py" <<'PY'
import torch

torch.backends.cudnn.benchmark = True
x = torch.randn(2, 64, 64, 64, device="cuda", dtype=torch.float16)
w = torch.randn(64, 64, 3, 3, device="cuda", dtype=torch.float16)
free, _ = torch.cuda.mem_get_info()
torch.nn.functional.conv2d(x, w, padding=1)
torch.cuda.synchronize()
print(torch.cuda.max_memory_reserved() / free)
PY
share() { PYTORCH_CUDA_ALLOC_CONF=$1 "$work/venv/bin/python" "$work/trial.py" | tail -1; }
asynchronous=$(share backend:cudaMallocAsync)
native=$(share backend:native)
echo "peak of the free memory: cudaMallocAsync $asynchronous, native $native"
"$work/venv/bin/python" -c "import sys; a, n = map(float, sys.argv[1:]); assert a > 0.9 and n < 0.5, 'it has changed'" \
  "$asynchronous" "$native"
