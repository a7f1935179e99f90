"""The tiled rasterizer in plain torch operations, for every device.

Tiles of similar length are padded to one length and composited together. In a tile the logarithm of
a Gaussian's alpha is a quadratic polynomial of the pixel's coordinates, so one small matrix product
evaluates it everywhere. Alpha and transmittance are recomputed in the backward pass instead of
being stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..cameras.pinhole import Cameras
from ..devices.autograd import Function
from ..gaussians.cloud import Gaussians
from .binning import Bins, bin_tiles
from .projection import ALPHA_MAX, ALPHA_MIN, Layers, Projection, project

TILE = 8  # pixels; 16 wastes more work on the tiles' empty corners
PIXELS = TILE * TILE
LOG2_E = math.log2(math.e)
# log opacity of the padding: far below ALPHA_MIN, yet no exponent underflows, which would be slow
PAD_LOG = -30.0
CHUNK = 2**19  # (tile, pixel, Gaussian) elements at once on a CPU: the buffers still fit its caches
CHUNK_DEVICE = 2**22  # elsewhere, where few large kernels are better


def rasterize_tiled(
    gaussians: Gaussians, cameras: Cameras, antialiased: bool, depth: bool
) -> Layers:
    """Render with `_Composite`, the hand-differentiated sum over the Gaussians."""
    projection = project(gaussians, cameras, antialiased)
    width, height, views = cameras.width, cameras.height, len(cameras)
    plan = make_plan(bin_tiles(projection, width, height, TILE), views, projection)
    sums = _Composite.apply(pack(projection, depth), plan)  # [V*rows*columns, pixels, 1+channels]
    image = sums.view(views, plan.rows, plan.columns, TILE, TILE, -1).permute(0, 1, 3, 2, 4, 5)
    image = image.reshape(views, plan.rows * TILE, plan.columns * TILE, -1)[:, :height, :width]
    alpha, color, layer = image[..., :1], image[..., 1:4], image[..., 4:] if depth else None
    return Layers(color, alpha, layer, projection.means2d, projection.visible)


def pack(projection: Projection, depth: bool) -> Tensor:
    """Rows [V*N+1, 6+channels]: mean, conic, log opacity and channels per view and Gaussian, and
    one for padding.
    """
    log_opacities = torch.log(projection.opacities.clamp_min(1e-8))
    parts = [projection.means2d, projection.conics, log_opacities[..., None], projection.colors]
    if depth:
        parts.append(projection.depths[..., None])
    rows = torch.cat(parts, -1).flatten(0, 1)
    padding = rows.new_zeros(1, rows.shape[1])
    padding[:, 5] = PAD_LOG
    return torch.cat((rows, padding))


@dataclass(frozen=True)
class Chunk:
    """Tiles that are composited together.

    Args:
        tiles: [K] index of the tile among all views' tiles
        entries: [K*L] rows of the pack, front to back within a tile, filled up with the padding row
    """

    tiles: Tensor
    entries: Tensor


@dataclass(frozen=True)
class Plan:
    """How the pairs of tiles and Gaussians are walked.

    Args:
        chunks: of tiles, composited one after another
        rows: of tiles in a view
        columns: of tiles in a view
        clamps: whether any alpha can reach ALPHA_MAX
    """

    chunks: list[Chunk]
    rows: int
    columns: int
    views: int
    clamps: bool


@torch.no_grad()
def make_plan(bins: Bins, views: int, projection: Projection) -> Plan:
    """Chunks of tiles, long lists first, of which none is shorter than half the longest of its
    chunk.
    """
    starts, counts = bins.offsets[:-1], bins.offsets.diff()
    counts, order = torch.sort(counts, descending=True, stable=True)
    starts, lengths = starts[order], counts.tolist()
    entries = torch.cat((bins.entries, bins.entries.new_tensor([projection.depths.numel()])))
    padding = len(entries) - 1
    budget = (CHUNK if entries.device.type == "cpu" else CHUNK_DEVICE) // PIXELS
    chunks, begin = [], 0
    while begin < len(lengths) and lengths[begin] > 0:
        longest = lengths[begin]
        end = begin + 1
        while (
            end < len(lengths)
            and 2 * lengths[end] >= longest
            and (end + 1 - begin) * longest <= budget
        ):
            end += 1
        rank = torch.arange(longest, device=entries.device)
        index = torch.where(rank < counts[begin:end, None], starts[begin:end, None] + rank, padding)
        chunks.append(Chunk(order[begin:end], entries[index.flatten()]))
        begin = end
    clamps = bool(projection.opacities.max() >= ALPHA_MAX)
    return Plan(chunks, bins.rows, bins.columns, views, clamps)


class _Composite(Function):
    """Front-to-back sums of alpha and the channels, [tiles, pixels, 1+channels], over the rows of a
    pack.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.plan = plan
        total = plan.views * plan.rows * plan.columns
        sums = rows.new_zeros(total, PIXELS, rows.shape[1] - 5)
        scratch = _Scratch(rows, plan)
        for chunk in plan.chunks:
            lists = _Lists(rows, chunk, plan)
            alpha, _, through = scratch.alphas(lists)
            weights = torch.mul(alpha, through[..., :-1], out=scratch.like(3, alpha))
            out = rows.new_empty(len(chunk.tiles), PIXELS, sums.shape[2])
            out[..., 0] = 1 - through[..., -1]
            out[..., 1:] = torch.bmm(weights, lists.channels)
            sums[chunk.tiles] = out
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        plan: Plan = ctx.plan
        grad_rows = torch.zeros_like(rows)
        scratch = _Scratch(rows, plan)
        for chunk in plan.chunks:
            lists = _Lists(rows, chunk, plan)
            upstream = grad[chunk.tiles]
            grad_alpha, grad_channels = upstream[..., :1], upstream[..., 1:]
            alpha, q, through = scratch.alphas(lists)
            # With v = <grad_channels, channels> + grad_alpha per Gaussian and pixel,
            # d loss / d log alpha_i = alpha_i (T_i v_i - sum_{j>i} w_j v_j / (1 - alpha_i)).
            weights = torch.mul(alpha, through[..., :-1], out=scratch.like(3, alpha))
            to_channels = torch.bmm(weights.transpose(1, 2), grad_channels)  # [K,L,channels]
            v = scratch.like(4, alpha)
            torch.bmm(grad_channels, lists.channels.transpose(1, 2), out=v).add_(grad_alpha)
            slope = torch.cumsum(weights.mul_(v), -1, out=scratch.like(5, alpha))
            slope.sub_(slope[..., -1:].clone()).div_(q[..., 1:])
            slope.addcmul_(v, through[..., :-1]).mul_(alpha)
            if plan.clamps:
                slope.masked_fill_(alpha >= ALPHA_MAX, 0.0)
            to_coefficients = torch.bmm(
                slope.transpose(1, 2), scratch.powers.expand(len(alpha), PIXELS, 6)
            )
            grad_rows.index_add_(0, chunk.entries, lists.pull_back(to_coefficients, to_channels))
        return grad_rows, None


class _Lists:
    """A chunk's Gaussians as polynomials around the centre of their tile."""

    def __init__(self, rows: Tensor, chunk: Chunk, plan: Plan) -> None:
        tiles = len(chunk.tiles)
        gathered = rows.index_select(0, chunk.entries).view(tiles, -1, rows.shape[1])
        self.channels = gathered[..., 6:]  # [K,L,channels]
        column = chunk.tiles % plan.columns
        row = torch.div(chunk.tiles, plan.columns, rounding_mode="floor") % plan.rows
        centre = (torch.stack((column, row)).to(rows.dtype)[..., None] + 0.5) * TILE
        mx, my, self.a, self.b, self.c, log_opacity = (
            gathered[..., :6].permute(2, 0, 1).contiguous()
        )
        self.dx, self.dy = mx.sub_(centre[0]), my.sub_(centre[1])
        self.gx, self.gy = self.a * self.dx + self.b * self.dy, self.c * self.dy + self.b * self.dx
        constant = log_opacity - 0.5 * (self.gx * self.dx + self.gy * self.dy)
        terms = (constant, self.gx, self.gy, -0.5 * self.a, -self.b, -0.5 * self.c)
        self.coefficients = torch.stack(terms, 1)  # [K,6,L]

    def pull_back(self, slope: Tensor, channels: Tensor) -> Tensor:
        """Gradients [K*L, 6+channels] of the rows from those of the coefficients [K,L,6] and of the
        channels.
        """
        s0, sx, sy, sxx, sxy, syy = slope.permute(2, 0, 1).contiguous()
        out = torch.empty(
            *slope.shape[:2], 6 + channels.shape[2], dtype=slope.dtype, device=slope.device
        )
        hx, hy = s0 * self.dx, s0 * self.dy
        out[..., 0] = self.a * sx + self.b * sy - self.gx * s0
        out[..., 1] = self.b * sx + self.c * sy - self.gy * s0
        out[..., 2] = self.dx * (sx - 0.5 * hx) - 0.5 * sxx
        out[..., 3] = self.dy * (sx - hx) + self.dx * sy - sxy
        out[..., 4] = self.dy * (sy - 0.5 * hy) - 0.5 * syy
        out[..., 5] = s0
        out[..., 6:] = channels
        return out.flatten(0, 1)


class _Scratch:
    """Buffers that every chunk of a pass reuses: fresh memory would cost more than the
    arithmetic.
    """

    def __init__(self, rows: Tensor, plan: Plan) -> None:
        self.size = (
            max((len(chunk.entries) + len(chunk.tiles) for chunk in plan.chunks), default=0)
            * PIXELS
        )
        self.buffers: dict[int, Tensor] = {}
        self.rows = rows
        self.clamps = plan.clamps
        offset = torch.arange(TILE, device=rows.device, dtype=rows.dtype) - (TILE - 1) / 2
        y, x = (k.flatten() for k in torch.meshgrid(offset, offset, indexing="ij"))
        self.powers = torch.stack((torch.ones_like(x), x, y, x * x, x * y, y * y), 1)  # [pixels,6]
        self.powers_base2 = self.powers * LOG2_E

    def take(self, key: int, shape: tuple[int, ...]) -> Tensor:
        if key not in self.buffers:
            self.buffers[key] = self.rows.new_empty(self.size)
        return self.buffers[key][: math.prod(shape)].view(shape)

    def like(self, key: int, other: Tensor) -> Tensor:
        return self.take(key, tuple(other.shape))

    def alphas(self, lists: _Lists) -> tuple[Tensor, Tensor, Tensor]:
        """alpha [K,pixels,L], (1, 1 - alpha) and its running product, the transmittance,
        [K,pixels,L+1].
        """
        tiles, _, length = lists.coefficients.shape
        alpha = self.take(0, (tiles, PIXELS, length))
        self.polynomial(lists.coefficients, alpha).exp2_()
        torch.threshold_(alpha, ALPHA_MIN, 0.0)
        if self.clamps:
            alpha.clamp_(max=ALPHA_MAX)
        q = self.take(1, (tiles, PIXELS, length + 1))
        q[..., 0] = 1
        torch.sub(1, alpha, out=q[..., 1:])
        return alpha, q, torch.cumprod(q, -1, out=self.take(2, tuple(q.shape)))

    def polynomial(self, coefficients: Tensor, out: Tensor) -> Tensor:
        """log2 alpha [K,pixels,L]."""
        if out.device.type == "cpu":
            return torch.bmm(self.powers_base2.expand(len(out), PIXELS, 6), coefficients, out=out)
        # Elsewhere matrix products may be set to 10 bits (TF32): too few for terms that cancel.
        out.copy_(coefficients[:, :1] * LOG2_E)
        for k in range(1, 6):
            out.addcmul_(self.powers_base2[:, k, None], coefficients[:, None, k])
        return out
