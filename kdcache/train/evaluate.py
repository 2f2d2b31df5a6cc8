"""A network on the evaluation images, beside what the teacher said of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kdcache.batches import Loader, straight_plan
from kdcache.measures import Outcome, every, numbers
from kdcache.models.network import Network, evaluating
from kdcache.train.team import ONE_PROCESS, Team

BATCH, ON_CPU = 256, 64  # a processor's caches hold the activations of few images: 64 are a third faster than 256
LARGEST_KEPT = 1 << 30  # bytes of evaluation images that stay on the device


class Evaluation:
    """network -> its measures on the evaluation images, beside the teacher's logits where there are some.

    The images are rendered once and kept where they fit, so that an evaluation costs what a forward of them does.
    """

    def __init__(self, loader: Loader, teacher: Tensor | None = None, dtype: str = "f32", team: Team = ONE_PROCESS):
        self.loader, self.dtype, self.team = loader, dtype, team
        self.teacher = None if teacher is None else teacher.to(loader.device)
        self.kept: list[Tensor] | None = None

    def __call__(self, network: Network) -> dict[str, float]:
        """The measures that are plain numbers; of no images, none."""
        return numbers(self.outcome(network))

    def page(self, outcome: Outcome | None) -> dict:
        """Every measure, and the classes by name."""
        return {"classes": self.loader.source.classes} | every(outcome)

    def outcome(self, network: Network) -> Outcome | None:
        """What it answers; None where there are no images."""
        if not len(self.loader.source):
            return None
        return Outcome(self.logits(network), self.loader.targets, self.teacher)

    def logits(self, network: Network) -> Tensor:
        """f32 [M, C]; every part of the network is left in the mode that it was in."""
        network.to(self.loader.device)
        with evaluating(network), torch.autocast(self.loader.device.type, torch.bfloat16, self.dtype == "bf16"):
            own = torch.cat([network(images).float() for images in self.images()])
            return self.team.whole(own, len(self.loader.source))

    def images(self) -> Iterator[Tensor]:
        """Those that this process answers, in order, in batches."""
        if self.kept is not None:
            yield from self.kept
            return
        rows = self.team.share(np.arange(len(self.loader.source)))
        n, size = len(rows), ON_CPU if self.loader.device.type == "cpu" else BATCH
        fits = n * 3 * math.prod(self.loader.view.size) <= LARGEST_KEPT
        kept = []
        for batch in self.loader.run(straight_plan(rows, size)):
            if fits:
                kept.append(batch.images)
            yield batch.images
        if fits:
            self.kept = kept
            self.loader.dismiss()
