"""A network on the evaluation images, beside what the teacher said of them."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcache.batches import Loader, straight_plan
from kdcache.models.network import Network, evaluating
from kdcache.train.metrics import calibration, summary

BATCH = 256


class Evaluation:
    """network -> top1, top5, agreement. The teacher's logits are given where there are some."""

    def __init__(self, loader: Loader, teacher: Tensor | None = None, dtype: str = "f32"):
        self.loader, self.dtype = loader, dtype
        self.teacher = None if teacher is None else teacher.to(loader.device)

    def __call__(self, network: Network) -> dict[str, float]:
        """Measured after every epoch; of no images, nothing."""
        if not len(self.loader.source):
            return {}
        return summary(self.logits(network), self.loader.targets, self.teacher)

    def full(self, network: Network) -> dict[str, float]:
        """All that there is to say of a checkpoint: nll and ece, too."""
        if not len(self.loader.source):
            return {}
        logits = self.logits(network)
        shares = summary(logits, self.loader.targets, self.teacher)
        return summary(logits, self.loader.targets) | calibration(logits, self.loader.targets) | shares

    def logits(self, network: Network) -> Tensor:
        """f32 [M, C]; every part of the network is left in the mode that it was in."""
        network.to(self.loader.device)
        plan = straight_plan(range(len(self.loader.source)), BATCH)
        with evaluating(network), torch.autocast(self.loader.device.type, torch.bfloat16, self.dtype == "bf16"):
            return torch.cat([network(batch.images).float() for batch in self.loader.run(plan)])
