"""A teacher of the digits, a cache of its answers, and the scripts of docs/trainers, which read it."""

import contextlib
import copy
import runpy
from pathlib import Path

import torch
import torch.nn.functional as F

from kdcache.jobs import Data, DumpOptions, make_dump
from kdcache.models.network import Network

SCRIPTS = Path(__file__).parent / "trainers"
EPOCHS = 2  # of three steps each, in every script


def taught(folder: Path, method: str = "st") -> Network:
    """Dumps two views of a teacher's answers to logits.h5."""
    data = Data.open("digits", None)
    network = data.network("tiny-3", seed=1).train()
    with torch.no_grad():
        network(data.train.read(range(128)))
    options = DumpOptions(folder / "logits.h5", EPOCHS, method=method, codec="f32")
    with make_dump(copy.deepcopy(network.eval()), data, options) as made:
        made.run()
    return network.requires_grad_(False)


def ran(name: str, folder: Path) -> dict:
    """What a script has left in its variables."""
    with contextlib.chdir(folder):
        return runpy.run_path(str(SCRIPTS / f"{name}_digits.py"))


def soft_target(logits, answers, labels, ce: float = 0.1, weight: float = 0.9, T: float = 4.0):
    """The sum that `st` is, as it is written everywhere."""
    kl = F.kl_div(F.log_softmax(logits / T, 1), F.log_softmax(answers / T, 1), reduction="batchmean", log_target=True)
    return ce * F.cross_entropy(logits, labels) + weight * T**2 * kl


def assert_close(mine: torch.nn.Module, theirs: torch.nn.Module, within: float = 1e-6) -> None:
    """The same weights."""
    found, expected = mine.state_dict(), theirs.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=within, msg=name)
