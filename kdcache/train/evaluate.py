"""A network on the evaluation images, beside what the teacher said of them."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from kdcache.batches import Loader, straight_plan
from kdcache.metrics import summary
from kdcache.models.network import Network

BATCH = 256


class Evaluation:
    """network -> top1, top5, agreement. The teacher's logits are given where there are some."""

    def __init__(self, loader: Loader, teacher: Tensor | None = None, dtype: str = "f32"):
        self.loader, self.teacher, self.dtype = loader, teacher, dtype

    def __call__(self, network: Network) -> dict[str, float]:
        teacher = None if self.teacher is None else self.teacher.to(self.loader.device)
        return summary(self.logits(network), self.loader.targets, teacher)

    @torch.no_grad()
    def logits(self, network: Network) -> Tensor:
        """f32 [M, C]; the network's mode is left as it was."""
        was_training = network.training
        network.to(self.loader.device).eval()
        bf16 = self.dtype == "bf16"
        with contextlib.ExitStack() as stack:
            stack.callback(network.train, was_training)
            stack.enter_context(torch.autocast(self.loader.device.type, torch.bfloat16, enabled=bf16))
            plan = straight_plan(range(len(self.loader.source)), BATCH)
            return torch.cat([network(batch.images).float() for batch in self.loader.run(plan)])
