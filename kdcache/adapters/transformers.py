"""The Trainer of Hugging Face's transformers: `Trainer(model, arguments, **trainer_arguments(knowledge_loss))`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from kdcache.api import KnowledgeLoss
from kdcache.checks import replace
from kdcache.errors import KdcacheWarning, UsageError
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
        "data_collator": Collator(data.normalize(mean, std)),
        "compute_loss_func": TrainerLoss(loss),
        "callbacks": [LossCallback(loss)],
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


class LossCallback(TrainerCallback):
    """Does what a Trainer does for its model alone: for the data set, and for what a method trains beside a student."""

    def __init__(self, loss: KnowledgeLoss):
        self.loss = loss

    def on_train_begin(self, args, state, control, **_) -> None:
        if not state.global_step or not self.loss.method.state_dict():
            return
        if (path := kept_in(args, state)).exists():
            self.loss.method.load_state_dict(safetensors.torch.load(path.read_bytes()))
        else:
            warnings.warn(f"no {path}: what the method trains beside the student begins anew", KdcacheWarning, 2)

    def on_epoch_begin(self, args, state, control, **_) -> None:
        self.loss.images.set_epoch(int(state.epoch))

    def on_pre_optimizer_step(self, args, state, control, **_) -> None:
        if not distributed.is_initialized():
            return
        for parameter in self.loss.parameters():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad.div_(distributed.get_world_size()))

    def on_optimizer_step(self, args, state, control, **_) -> None:
        self.loss.zero_grad()  # a Trainer does so with its model's gradients, not with all that its optimiser has

    def on_save(self, args, state, control, **_) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in self.loss.method.state_dict().items()}
        if tensors and state.is_world_process_zero:
            replace(kept_in(args, state), safetensors.torch.save(tensors))


def kept_in(args, state) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "kdcache_method.safetensors"
