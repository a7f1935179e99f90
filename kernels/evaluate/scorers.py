"""Models that score pictures against a prompt, for Reward Loss: [B,3,H,W] in 0..1 to [B]."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..toybox.captions import Caption
from ..toybox.data import SIZE
from ..toybox.models import Judge
from .clip import Clip
from .judge import judge_logits
from .judgement import log_likelihoods


@dataclass(frozen=True)
class JudgeScorer:
    """How likely the toybox's judge finds the caption in each picture, in nats."""

    judge: Judge
    caption: Caption

    def __call__(self, images: Tensor) -> Tensor:
        sized = images if images.shape[-1] == SIZE else F.interpolate(images, (SIZE, SIZE))
        self.judge.to(images.device)
        return log_likelihoods(judge_logits(self.judge, sized), [self.caption])[:, 0].float()


@dataclass(frozen=True)
class ClipScorer:
    """100 x the cosine of each picture and the prompt, by a CLIP."""

    clip: Clip
    prompt: str

    def __call__(self, images: Tensor) -> Tensor:
        self.clip.model.to(images.device)
        return 100 * self.clip.similarities(images, [self.prompt])[:, 0]
