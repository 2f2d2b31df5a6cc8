"""The Trainer of Hugging Face's transformers: `Trainer(model, arguments, **trainer_arguments(knowledge_loss))`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache.api import KnowledgeLoss, NumberedImages
from kdcache.errors import UsageError
from kdcache.models.network import logits_in
from kdcache.models.normalize import Normalize
from kdcache.on_demand import extra

TrainerCallback = extra("transformers", "transformers", __name__).TrainerCallback


def trainer_arguments(
    loss: KnowledgeLoss, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> dict:
    """What a Trainer is given beside its network and its `TrainingArguments`; what is not wanted can be replaced.

    mean, std    what the network is fed with; None: those of the data
    """
    data = loss.images.data
    return {
        "train_dataset": loss.images,
        "eval_dataset": data.evaluation(answers=False) if data.opened.held_out else None,
        "data_collator": Collator(Normalize(mean or data.source.mean, std or data.source.std)),
        "compute_loss_func": TrainerLoss(loss),
        "callbacks": [EpochCallback(loss.images)],
    }


@dataclass(frozen=True)
class Collator:
    """Pairs of an image and a target, as the dict that image classifiers take."""

    normalize: Normalize

    def __call__(self, pairs: Sequence[tuple]) -> dict[str, Tensor]:
        images, targets = zip(*pairs, strict=True)
        labels = torch.stack([torch.as_tensor(target) for target in targets])
        return {"pixel_values": self.normalize(torch.stack(images)), "labels": labels}


@dataclass(frozen=True)
class TrainerLoss:
    """`compute_loss_func`: the mean over all rows of a step, which may be several batches."""

    loss: KnowledgeLoss

    def __call__(self, outputs, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        if labels.ndim == 1:  # of evaluation images, which have no item number
            return F.cross_entropy(logits_in(outputs), labels, ignore_index=-1)
        if num_items_in_batch is None:
            return self.loss(outputs, labels)
        if isinstance(num_items_in_batch, Tensor) and num_items_in_batch.ndim:
            found, remedy = "one for several", "start it with torchrun, or show it one GPU"
            raise UsageError("Trainer", "a process for each GPU", found, remedy)
        return self.loss(outputs, labels) * (labels.numel() / num_items_in_batch)  # it counts all numbers in `labels`


class EpochCallback(TrainerCallback):
    """Tells the data set of each epoch: with several processes, nobody else does."""

    def __init__(self, images: NumberedImages):
        self.images = images

    def on_epoch_begin(self, args, state, control, **_) -> None:
        self.images.set_epoch(int(state.epoch))
