"""Clouds as the pack's own viewer in the browser gets them: 17 bytes per Gaussian, and what a page
says beside them.

One message is the mark "D3D1", the length of a JSON object, that object padded with spaces to a
multiple of 4 bytes, and the planes ``positions`` (3 x uint16 in the box), ``rgba`` (4 x uint8),
``quats`` (wxyz, 4 x int8, q * 127) and ``scales`` (3 x uint8 over the range of natural logs), one
after the other. The JSON holds ``shown`` and ``count`` (Gaussians in the planes and in the cloud),
``box`` (low xyz, high xyz), ``logs`` (low, high), ``centre`` and ``radius`` (where a camera should
look, and what it should see), and whatever the sender adds. Y down, as in all splat files.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..gaussians.cloud import SH_C0, Gaussians
from .frame import FAINT, from_file_frame, to_file_frame

MARK = b"D3D1"
ROW = 17  # bytes of a Gaussian
LOG_SPAN = 10.0  # of scales: what is e^10 times smaller than the largest cannot be seen beside it


def pack(gaussians: Gaussians, limit: int, **extra: Any) -> bytes:
    """The message of at most ``limit`` Gaussians, evenly taken from the cloud and enlarged to cover
    what is left out.

    Works where the cloud is; only the finished planes leave the device. View-dependent colours are
    left out.
    """
    with torch.no_grad():
        cloud = to_file_frame(_thinned(gaussians, limit))
        centre, radius = focus(cloud)
        low, high = cloud.means.amin(0), cloud.means.amax(0)
        last = cloud.log_scales.max()
        first = torch.maximum(cloud.log_scales.min(), last - LOG_SPAN)
        colors = torch.cat([cloud.colors, cloud.opacities[:, None]], 1)
        planes = [
            _levels((cloud.means - low) / (high - low).clamp_min(1e-9), 65535),
            _levels(colors, 255),
            (torch.nn.functional.normalize(cloud.quats, dim=1) * 127).round().to(torch.int32),
            _levels((cloud.log_scales - first) / (last - first).clamp_min(1e-9), 255),
        ]
        types = ("<u2", "u1", "i1", "u1")
        body = b"".join(
            p.cpu().numpy().astype(t).tobytes() for p, t in zip(planes, types, strict=True)
        )
        numbers = torch.stack([*low, *high, first, last, *centre, radius]).tolist()
    about = {
        "shown": len(cloud), "count": len(gaussians), "box": numbers[:6], "logs": numbers[6:8],
        "centre": numbers[8:11], "radius": numbers[11], **extra,
    }  # fmt: skip
    head = json.dumps(about, allow_nan=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    return MARK + len(head).to_bytes(4, "little") + head + body


def unpack(message: bytes) -> tuple[Gaussians, dict[str, Any]]:
    """The cloud, in our Y-up world, and the JSON object of a message. Raises ValueError for
    anything else.
    """
    size = int.from_bytes(message[4:8], "little")
    if message[:4] != MARK or len(message) < 8 + size:
        raise ValueError("This is no message for the viewer.")
    about = json.loads(message[8 : 8 + size])
    n, body = about["shown"], message[8 + size :]
    if len(body) != ROW * n:
        raise ValueError(
            f"The viewer's message holds {len(body)} bytes for {n} Gaussians, expected {ROW * n}."
        )
    (low, high), (first, last) = np.float32(about["box"]).reshape(2, 3), about["logs"]
    positions = np.frombuffer(body, "<u2", 3 * n).reshape(n, 3) / np.float32(65535)
    rgba = np.frombuffer(body, "u1", 4 * n, 6 * n).reshape(n, 4) / np.float32(255)
    quats = np.frombuffer(body, "i1", 4 * n, 10 * n).reshape(n, 4) / np.float32(127)
    scales = np.frombuffer(body, "u1", 3 * n, 14 * n).reshape(n, 3) / np.float32(255)
    cloud = Gaussians(
        means=torch.from_numpy(low + positions * (high - low)),
        log_scales=torch.from_numpy(np.float32(first) + scales * np.float32(last - first)),
        quats=torch.from_numpy(quats),
        opacity_logits=torch.from_numpy(rgba[:, 3]).clamp(1 / 512, 1 - 1 / 512).logit(),
        sh=torch.from_numpy((rgba[:, None, :3] - 0.5) / np.float32(SH_C0)),
    )
    return from_file_frame(cloud), about


def focus(cloud: Gaussians) -> tuple[Tensor, Tensor]:
    """Middle [3] and radius [] of what a camera should look at: most of what can be seen and is not
    anchored.

    Anchors are a scene's ground and sky, so that the camera stays below the sky.
    """
    opaque = cloud.opacities > FAINT
    if cloud.anchored is not None:
        opaque = opaque & ~cloud.anchored
    means = cloud.means[opaque] if bool(opaque.any()) else cloud.means
    # sorting is there on every device, kthvalue is not
    centre = means.sort(0).values[len(means) // 2]
    distance = (means - centre).norm(dim=1)
    return centre, distance.sort().values[math.ceil(0.95 * len(distance)) - 1]


def _thinned(gaussians: Gaussians, limit: int) -> Gaussians:
    total = len(gaussians)
    # Harmonics beyond the first would only be turned along and dropped.
    parts = gaussians.tensors() | {"sh": gaussians.sh[:, :1]}
    if total <= limit:
        return Gaussians(**parts, anchored=gaussians.anchored)
    rows = torch.arange(limit, device=gaussians.device) * total // limit
    parts = {name: value[rows] for name, value in parts.items()}
    parts["log_scales"] = parts["log_scales"] + 0.5 * math.log(total / limit)
    return Gaussians(
        **parts, anchored=None if gaussians.anchored is None else gaussians.anchored[rows]
    )


def _levels(values: Tensor, top: int) -> Tensor:
    return (values.clamp(0, 1) * top).round().to(torch.int32)
