"""A real cache of made-up images, for measurements."""

from __future__ import annotations

from pathlib import Path

import torch

from kdcache.choice import Data, DumpOptions, make_dump
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


def made_cache(path: Path, rows: int, classes: int, views: int, model: str = "tiny-3") -> Path:
    """Synthetic images, and the answers of an untrained network to them."""
    data = made_data(rows, classes, 8)
    network = settled(build(model, classes, data.train.mean, data.train.std), data)
    with make_dump(network, data, DumpOptions(path, views, forward=Forward(1024))) as dump:
        return dump.run()
