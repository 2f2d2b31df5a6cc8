"""Everything that a training run needs to continue, as one safetensors file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from kdcache.errors import KdcacheError


def save_state(path: Path, trainer, epoch: int, best: float) -> None:
    """Students, the method's parts and the optimiser's buffers, after an epoch."""
    from safetensors.torch import save_file

    tensors = {name: value.contiguous() for name, value in modules(trainer)}
    for name, parameter in trainer.parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{key}/{name}"] = value.contiguous()
    facts = {"epoch": epoch, "best": best, "stage": trainer.stage.name}
    private = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: value.cpu() for name, value in tensors.items()}, private, {"kdcache": json.dumps(facts)})
    os.replace(private, path)


def read_state(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """What `save_state` wrote: the facts, and the tensors by name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["kdcache"])
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise KdcacheError(path, "a saved training state", str(error), "leave --resume out") from None


def restore(trainer, tensors: dict[str, torch.Tensor]) -> None:
    """Puts saved tensors into a trainer that has entered the stage they were saved in."""
    for name, value in modules(trainer):
        value.data.copy_(tensors[name])
    parameters = dict(trainer.parameters())
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, key, parameter = name.split("/", 2)
            place = parameters[parameter]
            trainer.optimizer.state[place][key] = value.to(place.device)


def modules(trainer):
    """Every tensor of the students and the method, by name."""
    for number, student in enumerate(trainer.students):
        yield from ((f"student{number}/{name}", value) for name, value in student.state_dict().items())
    yield from ((f"method/{name}", value) for name, value in trainer.method.state_dict().items())
