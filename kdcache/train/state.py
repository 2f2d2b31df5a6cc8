"""Everything that a training run needs to continue, as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kdcache.checks import replace
from kdcache.errors import KdcacheError, reason
from kdcache.models.weights import checksum
from kdcache.runs import AGAIN, writing
from kdcache.train.trainer import Trainer


def save_state(path: Path, trainer: Trainer, epoch: int, best: float | None) -> None:
    """Students, the method's parts and the optimiser's buffers, after an epoch."""
    import safetensors.torch

    tensors = dict(trainer.tensors())
    for name, parameter in trainer.parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{key}/{name}"] = value
    # copies, since networks may have weights in common
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    facts = {"epoch": epoch, "best": best, "stage": trainer.stage.name}
    facts["crc"] = checksum(facts, tensors)
    with writing(path.parent):
        replace(path, safetensors.torch.save(tensors, {"kdcache": json.dumps(facts)}))


def read_state(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """What `save_state` wrote: the facts, and the tensors by name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["kdcache"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        right = facts.pop("crc") == checksum(facts, tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise KdcacheError(path, "a whole training state", reason(error), AGAIN) from None
    if not right:
        raise KdcacheError(path, "a whole training state", "one whose checksum is wrong", AGAIN)
    return facts, tensors


def restore(place: object, trainer: Trainer, tensors: Mapping[str, Tensor]) -> None:
    """Puts saved tensors into a trainer that has entered the stage they were saved in."""
    own, parameters = dict(trainer.tensors()), dict(trainer.parameters())
    saved = {name: value for name, value in tensors.items() if not name.startswith("optimizer/")}
    for name in sorted(own.keys() | saved.keys()):
        theirs, ours = (tuple(side[name].shape) if name in side else "nothing" for side in (saved, own))
        if theirs != ours:
            raise KdcacheError(place, f"{ours} as {name}", f"{theirs}: of another version?", AGAIN)
    for name, value in saved.items():
        own[name].copy_(value)
    for name in tensors.keys() - saved.keys():
        _, key, parameter = name.split("/", 2)
        own_parameter = parameters[parameter]
        trainer.optimizer.state[own_parameter][key] = like(own_parameter, tensors[name])


@torch.no_grad()
def like(parameter: Tensor, value: Tensor) -> Tensor:
    """A buffer in the layout of its parameter: fused optimisers walk through both without looking at strides."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)  # a number of steps
    return torch.empty_like(parameter).copy_(value)
