"""Small teachers, caches and students, for the tests that train."""

import functools
import json
from pathlib import Path

import torch

from kdcache.cache import Cache, open_cache
from kdcache.jobs import Data, DumpOptions, Student, make_dump, taught_by
from kdcache.methods import METHODS, build, parse
from kdcache.models import build as build_network
from kdcache.models.network import Network, shapes
from kdcache.teachers import Forward
from kdcache.train import Settings

SPEC = "synthetic:49,4,16"
SAME_WIDTH = {"fsp", "kdsvd", "kdeid", "mhgd"}  # they compare channels and have no connectors
TEXTS = [name + v for name, method in METHODS.items() for v in ("", *(f"/{variant}" for variant in method.variants))]


def teacher_of(model: str, data: Data, seed: int = 5) -> Network:
    """An untrained network with the batch statistics of the data, so that its answers are of ordinary size."""
    network = build_network(model, len(data.train.classes), data.train.mean, data.train.std, seed=seed)
    with torch.no_grad():
        for _ in range(3):
            network(data.train.read(range(min(64, len(data.train)))))
    return network.eval()


def dumped(path: Path, data: Data, network: Network, method: str, views: int = 2, **forward) -> Cache:
    with make_dump(
        network, data, DumpOptions(path, views, method=method, codec="f32", forward=Forward(**forward))
    ) as dump:
        return open_cache(dump.run())


def asks(text: str) -> bool:
    """Whether the method reads what a teacher left behind."""
    method = build(text, shown(), shown())
    return bool(method.taps) and not method.live_only


@functools.cache
def shown() -> dict:
    network = build_network("resnet8", 4, (0.5,) * 3, (0.5,) * 3)
    return shapes(network, network.taps, (3, 16, 16))


def name_of(text: str) -> str:
    return parse(text)[0].name


class Fixture:
    """A teacher and a cache of all that any method reads of it; forward batches of 24, 24 and 1."""

    def __init__(self, folder: Path, model: str, texts: list[str]):
        self.data = Data.open(SPEC, "crop-flip")
        self.network = teacher_of(model, self.data)
        self.cache = dumped(folder / "cache.h5", self.data, self.network, "+".join(texts), batch=24)

    def student(self, method: str, model: str = "resnet8", live: bool = False, **settings) -> Student:
        """Batches of 16: of 49 rows the last one stays alone and is left out."""
        chosen = Settings(**{"epochs": 2, "batch": 16, "lr": 0.02, "warmup": 0.5} | settings)
        return Student(self.data, model, method, chosen, taught_by(self.cache, self.network if live else None))


def measured(records: list[dict]) -> list[dict]:
    """Records without what the clock said."""
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "train_seconds", "images_per_second", "peak_bytes")}
        for record in records
    ]


def metrics_of(folder: Path) -> list[dict]:
    return measured([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    mine, theirs = a.state_dict(), b.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
