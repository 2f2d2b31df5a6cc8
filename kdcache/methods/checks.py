"""What `Method.loss` asks of its tensors before any method sees them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.types import Batch, Knowledge, Look


def ordinary(tensors):
    """Tensors that autograd may save: what was made in inference mode is copied."""
    return {k: constant(v) if v.is_inference() else v for k, v in tensors.items()}


def constant(value: Tensor) -> Tensor:
    """The same values without a gradient, in inference mode or not."""
    if value.is_inference():
        with torch.inference_mode(False):  # a copy that is made outside it is an ordinary tensor
            return value.clone()
    return value.detach() if value.requires_grad else value


def labelled_batch(batch: Batch) -> Batch:
    """The batch with its labels as int64."""
    targets = class_numbers("targets", batch.targets)
    others = None if batch.others is None else class_numbers("others", batch.others)
    shares = None if batch.shares is None else constant(batch.shares)
    if targets is batch.targets and others is batch.others and shares is batch.shares:
        return batch
    return dataclasses.replace(batch, targets=targets, others=others, shares=shares)


def class_numbers(name: str, labels: Tensor) -> Tensor:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        remedy = "give class numbers, -1 where there is no label"
        raise UsageError(f"batch.{name}", "whole numbers, one for each row", f"{labels.dtype}", remedy)
    return constant(labels).long()  # itself, where it is int64


def require_one_batch(look: Look, knowledge: Knowledge, batch: Batch) -> None:
    """Refuses student, teacher and labels of different rows or classes; torch would broadcast some of them."""
    mine, rows = look["logits"].shape, batch.targets.shape
    if len(mine) != 2 or mine[0] == 0 or mine[1] < 2:
        expected = "logits of one row or more, and of two classes or more"
        remedy = "take data of two classes or more" if mine[0] else "give a batch that is not empty"
        raise UsageError("loss", expected, f"student's logits {times(mine)}", remedy)
    if len(rows) != 1:
        raise UsageError("batch.targets", "one label for each row", f"shape {times(rows)}", "give class numbers")
    labels = {"targets": batch.targets, "others": batch.others, "shares": batch.shares}
    for whose, tensors in (("student's", look), ("teacher's", knowledge), ("batch's", labels)):
        for name, tensor in tensors.items():
            if tensor is not None and tensor.shape[:1] != mine[:1]:
                found = f"student's logits {times(mine)} and {whose} {name} {times(tensor.shape)}"
                raise UsageError("loss", "as many rows on both sides", found, "give all of them the same rows")
    for name in ("logits", "peers"):
        if name in knowledge and knowledge[name].shape[-1] != mine[1]:
            found = f"student's logits {times(mine)} and teacher's {name} {times(knowledge[name].shape)}"
            raise UsageError("loss", "as many classes on both sides", found, "take a teacher of the same classes")


def times(shape) -> str:
    return "x".join(str(n) for n in shape)
