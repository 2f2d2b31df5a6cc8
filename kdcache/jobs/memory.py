"""What memory trainings will take: weights and what goes with them by their number, activations by a forward here."""

from __future__ import annotations

import torch

from kdcache.jobs.data import Data
from kdcache.jobs.student import default_student
from kdcache.models import build
from kdcache.models.figures import CLASSES
from kdcache.models.network import Network
from kdcache.train import Settings
from kdcache.train.records import peak_bytes

FEW = 4  # images of the forward
MOMENTA = {"sgd": 1, "dot": 2, "adam": 2, "adamw": 2}


def training_memory(data: Data, model: str | None, students: int, settings: Settings | None = None) -> dict:
    """Bytes of one student of cross-entropy, of several in one pipeline, and of as many processes.

    In one pipeline students take their steps in turn, so that the activations of one alone are there at a time. What a
    process takes before it has a network is what this one has taken: torch and the images.
    """
    settings, process = settings or Settings(), peak_bytes(torch.device("cpu"))
    model = model or default_student(data)
    network = build(model, len(data.train.classes) or CLASSES, (0.5,) * 3, (0.25,) * 3)
    tensors = [*network.parameters(), *network.buffers()]
    trained = sum(tensor.nbytes for tensor in network.parameters())
    state = sum(tensor.nbytes for tensor in tensors) + (1 + MOMENTA[settings.optimizer]) * trained
    step = round(kept_bytes(network, data.image) * settings.batch / FEW)
    return {
        "student": model,
        "students": students,
        "batch": settings.batch,
        "state_bytes": state,
        "activation_bytes": step,
        "process_bytes": process,
        "pipeline_bytes": process + students * state + step,
        "processes_bytes": students * (process + state + step),
    }


def kept_bytes(network: Network, image: tuple[int, int, int]) -> int:
    """Bytes that autograd keeps of a forward of few blank images, for the gradient."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        answer = network.train()(torch.zeros((FEW, *image), dtype=torch.uint8))  # which keeps them from being freed
    del answer
    return sum(kept.values())
