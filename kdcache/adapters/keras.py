"""Keras 3 on torch: a teacher whose answers come with the images, for `keras.distillation.Distiller`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdcache.api import CachedDataset
from kdcache.api.dataset import EvaluationImages, soft_targets
from kdcache.errors import UsageError
from kdcache.methods import build
from kdcache.on_demand import extra
from kdcache.types import Batch

keras = extra("keras", "keras", __name__)
if keras.backend.backend() != "torch":
    raise UsageError(
        __name__, "Keras on torch", keras.backend.backend(), 'set KERAS_BACKEND=torch before "import keras"'
    )


def teacher_and_student(student, data: CachedDataset) -> tuple:
    """Two models of (image, answers): the teacher hands on the answers, and the student, itself, sees the image."""
    image = keras.Input(student.input_shape[1:], name="image")
    answers = keras.Input((len(data.classes),), name="answers")
    teacher = keras.Model([image, answers], keras.layers.Identity()(answers), name="cache")
    return teacher, keras.Model([image, answers], student(image), name="student")


def loader(data: CachedDataset, batch_size: int, seed: int = 0, **options) -> DataLoader:
    """((image, answers), label), an epoch and so a view at a time; `options` are those of torch's DataLoader."""
    if data.tells or data.named.several:
        found = "a fourth" if data.tells else "several kinds of knowledge"
        remedy = "open the data without `missing` and `names`"
        raise UsageError("CachedDataset", "an image, its label and one answer each", found, remedy)
    return DataLoader(data, batch_size, sampler=data.epochs(seed), collate_fn=collated, **options)


def evaluation_loader(data: CachedDataset, batch_size: int, **options) -> DataLoader:
    """The same of the evaluation images, un-augmented."""
    held_out: EvaluationImages = data.evaluation()
    per_class = len(data.classes) if data.soft or data.loader.view.mixes else 0
    return DataLoader(held_out, batch_size, collate_fn=partial(collated, per_class=per_class), **options)


def collated(triples: Sequence[tuple], per_class: int = 0) -> tuple:
    """Images as Keras has them, floats from 0 to 255 with the channels where its configuration says.

    Labels become targets of so many classes, where a training has such.
    """
    images, labels, answers = zip(*triples, strict=True)
    if per_class:
        batch = Batch(torch.stack(images), torch.as_tensor(labels), np.arange(len(labels)), len(labels))
        labels = tuple(soft_targets(batch, per_class))
    pixels = torch.stack(images).float()
    if keras.config.image_data_format() == "channels_last":
        pixels = pixels.permute(0, 2, 3, 1).contiguous()
    return (pixels, torch.stack(answers)), torch.utils.data.default_collate(labels)


class MethodLoss(keras.distillation.DistillationLoss):
    """A method that reads logits alone, without its cross-entropy: the Distiller has one of its own, and the labels."""

    def __init__(self, method: str = "st"):
        self.method = build(method, {"logits": (2,)}, {"logits": (2,)})
        one = self.method
        if (
            set(one.taps) != {"logits"}
            or one.student_taps
            or one.needs_labels
            or one.students > 1
            or one.views > 1
            or one.two_heads
            or any(one.parameters())
        ):
            expected = "a method of the logits of one student that needs no label"
            raise UsageError(f"method {method}", expected, "another", "take st or dist, or keras.distillation's own")
        self.method.ce = 0.0

    def compute_loss(self, teacher_outputs: Tensor, student_outputs: Tensor, **_) -> Tensor:
        unlabelled = torch.full((len(student_outputs),), -1, device=student_outputs.device)
        batch = Batch(torch.empty(0), unlabelled, unlabelled.cpu().numpy(), len(unlabelled))
        return sum(self.method.loss({"logits": student_outputs}, {"logits": teacher_outputs}, batch).values())
