"""timm: a task that runs any method, and timm's own train.py, unchanged, on a cache.

    python -m kdcache.adapters.timm train.py --cache logits.h5 --method st:1:ce=1 --model resnet18 --num-classes 10

A loop of one's own takes `CachedDataset(...).numbered()` for `create_loader`, and `CachedTask`.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from kdcache.api import CachedDataset, KnowledgeLoss
from kdcache.errors import UsageError
from kdcache.on_demand import extra

task, utils = (extra(f"timm.{part}", "timm", "kdcache.adapters.timm") for part in ("task", "utils"))
made_by_timm = extra("timm.data", "timm", "kdcache.adapters.timm").create_loader
ALREADY = "the teacher saw the images as the view of the cache renders them, and answered those"
ALTERED = {  # what create_loader would do to images or labels: what it is called on the command line, and what is usual
    "auto_augment": ("--aa", (None, "")),
    "re_prob": ("--reprob", (0,)),
    "color_jitter": ("--color-jitter", (None, 0, 0.4)),  # timm's usual value, which nobody has to have asked for
    "color_jitter_prob": ("--color-jitter-prob", (None, 0)),
    "grayscale_prob": ("--grayscale-prob", (None, 0)),
    "gaussian_blur_prob": ("--gaussian-blur-prob", (None, 0)),
    "vflip": ("--vflip", (0,)),
    "num_aug_splits": ("--aug-splits", (0,)),
    "num_aug_repeats": ("--aug-repeats", (0,)),
    "collate_fn": ("--mixup and --cutmix", (None,)),
    "input_size_choices": ("--train-img-sizes", (None,)),
}


def create_loader(dataset, input_size, batch_size: int, is_training: bool = False, **options):
    """timm's own, which refuses whatever would change images after the teacher saw them; it normalises alone."""
    if is_training:
        require_untouched(options)
        size = input_size if isinstance(input_size, int) else tuple(input_size)[-2:]
        require_size(dataset.data, (size, size) if isinstance(size, int) else size)
    return made_by_timm(dataset, input_size, batch_size, is_training=is_training, **options)


def require_untouched(options: dict) -> None:
    for name, (flag, usual) in ALTERED.items():
        if options.get(name, usual[0]) not in usual:
            remedy = f"leave {flag} out; such a view is made with `kdcache dump-logits --augment`"
            raise UsageError(flag, "images as they are", f"{name}={options[name]!r}: {ALREADY}", remedy)
    if not options.get("use_prefetcher", True):
        found = "images that nobody normalises"
        raise UsageError("--no-prefetcher", "timm's prefetcher, which normalises", found, "leave it out")


def require_size(cached: CachedDataset, size: tuple[int, int]) -> None:
    if (shown := tuple(cached.loader.view.size)) != tuple(size):
        remedy = f"add --img-size {shown[0]}" if shown[0] == shown[1] else f"add --input-size 3 {shown[0]} {shown[1]}"
        raise UsageError("input_size", f"{shown[0]}x{shown[1]}, as the cache has it", "x".join(map(str, size)), remedy)


class CachedTask(task.ClassificationTask):
    """The loss of any method on stored answers; targets are pairs of a label and an item number."""

    def __init__(self, model: nn.Module, loss: KnowledgeLoss, device: torch.device | None = None, **options):
        super().__init__(model, nn.CrossEntropyLoss(), device=device, **options | {"verbose": False})
        self.loss = loss
        if any(True for _ in loss.method.parameters()):
            self.trainable_module = Learner(model, loss.method)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        output = self.trainable_module(input)
        terms = self.loss.terms(output, target)
        return {"loss": sum(terms.values()), "output": output} | {f"{name}_loss": one for name, one in terms.items()}

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        found = super().get_eval_model(module, ema)
        inner = utils.unwrap_model(found) if found is not None else None
        return inner.student if isinstance(inner, Learner) else found

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict:
        state = self.loss.method.state_dict()
        return {"method": state} if state and not ema else {}

    def load_task_state(self, state, strict: bool = True, module: nn.Module | None = None, ema: bool = False) -> None:
        if state and not ema:
            self.loss.method.load_state_dict(state["method"], strict=strict)


class Learner(nn.Module):
    """A student and what a method trains beside it, for one optimiser."""

    def __init__(self, student: nn.Module, method: nn.Module):
        super().__init__()
        self.student, self.method = student, method

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images)

    def no_weight_decay(self) -> set[str]:
        return {f"student.{name}" for name in getattr(self.student, "no_weight_decay", set)()}


if __name__ == "__main__":
    from kdcache.adapters.timm_script import main

    sys.exit(main(sys.argv[1:]))
