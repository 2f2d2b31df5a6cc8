"""A training script of timm, such as its train.py, with images and answers of a cache; no line of it changes."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from torch import nn

from kdcache.adapters.timm import CachedTask, create_loader
from kdcache.api import CachedDataset, KnowledgeLoss
from kdcache.api.dataset import EvaluationImages, NumberedImages
from kdcache.errors import KdcacheError, UsageError
from kdcache.models.elsewhere import laid_out
from kdcache.on_demand import extra
from kdcache.wording import by

PROGRAM = "python -m kdcache.adapters.timm"
OTHER_TASKS = ("LogitDistillationTask", "FeatureDistillationTask", "TokenDistillationTask")
loss = extra("timm.loss", "timm", "kdcache.adapters.timm")


def main(arguments: Sequence[str]) -> int:
    """Runs a script with the rest of the arguments; the exit code, where what is asked for cannot be done."""
    chosen, rest = parser().parse_known_args(arguments)
    try:
        if not Path(chosen.script).is_file():
            remedy = "name a copy of it: timm's own lies in its repository, not in what pip installs"
            raise UsageError(chosen.script, "a training script of timm", "no such file", remedy)
        run(chosen, rest)
    except KdcacheError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    usage = "%(prog)s SCRIPT --cache FILE [--method METHOD] [--taps TAPS] [--images DATA] [options of SCRIPT]"
    example = f"example: {PROGRAM} train.py --cache logits.h5 --method st:1:ce=1 --model resnet18 --num-classes 10"
    found = argparse.ArgumentParser(PROGRAM, usage, __doc__, example, allow_abbrev=False)
    found.add_argument(
        "script", metavar="SCRIPT", help="a training script that takes what timm has, such as its train.py"
    )
    found.add_argument("--cache", required=True, metavar="FILE", help="a finished cache")
    found.add_argument("--method", default="st", help="as of `kdcache train-student`")
    found.add_argument("--taps", help="of the student, where they are not the stages that timm names")
    found.add_argument("--images", metavar="DATA", help="where the images of the cache lie now, as folder:NEW")
    return found


def run(chosen: argparse.Namespace, rest: Sequence[str]) -> None:
    script = Script(CachedDataset(chosen.cache, chosen.images).numbered(), chosen.method, chosen.taps, epochs_in(rest))
    refused = dict.fromkeys(OTHER_TASKS, script.refuse_teacher)
    with (
        mock.patch.multiple("timm.data", create_dataset=script.dataset, create_loader=script.loader),
        mock.patch.multiple("timm.task", ClassificationTask=script.task, **refused),
        mock.patch.object(sys, "argv", [chosen.script, *rest]),
    ):
        runpy.run_path(chosen.script, run_name="__main__")


def epochs_in(arguments: Sequence[str]) -> int | None:
    """What the script is told of its epochs."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--epochs", type=int)
    return own.parse_known_args(arguments)[0].epochs


@dataclass(frozen=True)
class Script:
    """What a script gets where it asks timm for data sets, loaders and a task."""

    images: NumberedImages
    method: str
    taps: str | None
    epochs: int | None

    def dataset(self, name: str = "", root=None, is_training: bool = False, **_) -> NumberedImages | EvaluationImages:
        if name or root:
            remedy = "leave it out; `--images folder:NEW` says where the images of the cache lie now"
            raise UsageError("--data-dir and --dataset", "the images of the cache", repr(root or name), remedy)
        if not is_training and (self.images.data.opened.held_out.labels < 0).any():
            found, remedy = "some without, which timm takes for a class", "take `kdcache train-student`"
            raise UsageError("--cache", "evaluation images with labels", found, remedy)
        return self.images if is_training else self.images.data.evaluation(answers=False)

    def loader(self, dataset, *arguments, is_training: bool = False, **options):
        if is_training:
            view = self.images.data.loader.view
            sys.stderr.write(f"images: {view.name} {by(view.size)} of the cache; timm crops, flips and jitters none\n")
        return create_loader(dataset, *arguments, is_training=is_training, **options)

    def task(self, model: nn.Module, criterion: nn.Module | None = None, **options) -> CachedTask:
        size = self.images.data.loader.view.size
        asked = KnowledgeLoss(self.images, self.method, laid_out(model, size), taps=self.taps, epochs=self.epochs)
        if asked.method.ce:
            asked.method.smooth(smoothing_of(criterion, options.get("criterion_kwargs")))
        options.pop("criterion_kwargs", None)
        if options.get("verbose", True):
            sys.stderr.write(f"loss: {asked.method.described()}\n")
        return CachedTask(model, asked, **options)

    def refuse_teacher(self, *_, **options) -> None:
        found = f"--kd-model-name {options.get('teacher_model')}"
        raise UsageError("--kd-model-name", "the answers of the cache", found, "leave it out, and say --method")


def smoothing_of(criterion: nn.Module | None, made_of: Mapping | None = None) -> float:
    """The label smoothing of a loss of timm, or of what it would make one of; the cross-entropy is the method's."""
    smoothing, *others = {"smoothing": 0.0, **(made_of or {})}.values()
    if criterion is None and isinstance(smoothing, int | float) and not any(others):
        return float(smoothing)
    if isinstance(criterion, loss.LabelSmoothingCrossEntropy):
        return criterion.smoothing
    if criterion is None or isinstance(criterion, nn.CrossEntropyLoss):
        return criterion.label_smoothing if criterion else 0.0
    found, remedy = type(criterion).__name__, "leave --bce-loss and --jsd-loss out; --method bkd is a binary one"
    raise UsageError("criterion", "cross-entropy, which a method has itself", found, remedy)
