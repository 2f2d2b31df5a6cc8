"""Real caches of made-up images, and students of them, for measurements."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

from kdcache.batches import training_plan
from kdcache.jobs import Data, DumpOptions, Student, make_dump
from kdcache.models import build
from kdcache.models.network import Network
from kdcache.teachers import Forward


def settled(network: Network, data: Data) -> Network:
    """A fresh network with sensible batch statistics, so that its logits are of ordinary size."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(data.train.read(range(min(128, len(data.train)))))
    return network.eval()


def made_data(rows: int, classes: int = 10, size: int = 32) -> Data:
    return Data.open(f"synthetic:{rows},{classes},{size}", None)


def made_teacher(model: str, data: Data) -> Network:
    return settled(build(model, len(data.train.classes), data.train.mean, data.train.std), data)


def made_cache(path: Path, rows: int, classes: int, views: int, codec: str = "f16") -> Path:
    """Synthetic images, and the answers of an untrained network to them."""
    data = made_data(rows, classes, 8)
    options = DumpOptions(path, views, codec=codec, forward=Forward(1024))
    with make_dump(made_teacher("tiny-3", data), data, options) as dump:
        return dump.run()


def stepper(student: Student, batch: int, stack: contextlib.ExitStack) -> Callable[[], dict]:
    """A training step as the trainer does it, of this student, with all that belongs to it."""
    [trainer], feed, _ = stack.enter_context(student.ready())
    trainer.method.meet(torch.from_numpy(student.data.train.labels))
    trainer.begin(trainer.stages[-1].first)  # the main one, where there is an initialisation before
    stack.enter_context(trainer.watching())
    plan = training_plan(len(student.data.train), 2, 1, batch, 0, trainer.method.views)
    turn = iter(range(1 << 30))

    def step() -> dict:
        batch = next(iter(feed.loader.run([plan[next(turn) % len(plan)]])))
        return trainer.step(batch, feed.answers(batch))

    return step
