"""Dumping a teacher's answers, as the command and recipes ask for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kdcache.batches import Loader, Seeded
from kdcache.cache.layout import shard_of
from kdcache.cache.share import Shard
from kdcache.dump import Dump
from kdcache.errors import UsageError
from kdcache.jobs.data import Data
from kdcache.jobs.pseudo import in_words, pseudo_teacher
from kdcache.methods import RawTaps
from kdcache.methods import build as build_method
from kdcache.models.maps import CAM
from kdcache.models.network import Network, shapes
from kdcache.ranks import Ranks
from kdcache.teachers import Forward, KnownTeacher, LiveTeacher, describe
from kdcache.teachers.known import require_unmixed
from kdcache.types import quiet
from kdcache.views import counted


@dataclass
class DumpOptions:
    """What `dump-logits` can be told beside the teacher and the data."""

    path: Path
    views: int | str = 10
    method: str = "st"
    knowledge: str | None = None  # instead of a method: taps as they are, `logits,emb,f2.post`
    codec: str = "f16"
    seed: int = 0
    first_view: int = 0  # for more views of a teacher who has answered some already
    forward: Forward = field(default_factory=Forward)
    device: str = "cpu"
    workers: int = 0
    shard: tuple[int, int] | None = None  # (2, 4): the second of four, in a file of its own


@contextlib.contextmanager
def make_dump(network: Network, data: Data, options: DumpOptions) -> Iterator[Dump]:
    """A dump, ready to run; a context, since the teacher's hooks are taken off afterwards."""
    view, views = counted(data.view, options.views)
    every = shapes(network, network.taps, data.image)
    name, method = options.method, None
    if options.knowledge:
        if options.method != "st":
            raise UsageError("`knowledge`", "no `method` beside it", options.method, "leave one out")
        name, method = f"knowledge {options.knowledge}", RawTaps(options.knowledge.split(","))
    method = method or build_method(options.method, every, every)  # no student yet: one of the same shapes
    if not method.taps:
        raise UsageError("`method`", "a method that asks a teacher", options.method, "try st")
    method.require_cacheable(every, options.method)
    seeds = Seeded(view, options.seed, len(data.train), options.first_view)
    loader = Loader(data.train, view, seeds, options.device, options.workers)
    held_out = Loader(data.held_out, view.evaluation(), 0, options.device, options.workers)
    shard = options.shard and Shard(options.shard[0] - 1, options.shard[1])
    path = shard_of(options.path, *options.shard) if options.shard else options.path
    read = {tap: list(shape) for tap, shape in every.items() if tap != CAM or tap in method.taps}
    described = describe(network) | {"shapes": read}  # older dumps name no cam, and can be continued
    with LiveTeacher(network, method, options.forward, options.device) as teacher:
        yield Dump(
            path, loader, held_out if len(data.held_out) else None, views, options.seed, teacher,
            described, name, options.codec, options.first_view, shard,
        )  # fmt: skip


def dump_options(chosen: dict, device: str, workers: int) -> DumpOptions:
    """The options of the command `dump-logits`."""
    if chosen["batch"] < 1:
        raise UsageError("`batch`", "a number from 1", str(chosen["batch"]), "try 256")
    world = Ranks.from_environment().world
    if chosen["shard"] and world > 1:
        remedy = "leave it out: ranks share one file; or start each shard without torchrun"
        raise UsageError("`shard`", "one process", f"{world} ranks of torchrun", remedy)
    forward = Forward(chosen["batch"], chosen["dtype"], chosen["channels_last"], chosen["tf32"], chosen["compiled"])
    asked = {key: chosen[key] for key in ("views", "method", "knowledge", "codec", "seed", "first_view", "shard")}
    return DumpOptions(Path(chosen["out"]), **asked, forward=forward, device=device, workers=workers)


def dump_pseudo(
    path: Path, data: Data, views: int | str, codec: str, seed: int, asked: dict, progress=quiet, remark=quiet
) -> Path:
    """Writes a PseudoTeacher's answers as an ordinary cache; `remark` is called with how often it is right."""
    require_unmixed(data.view)
    view, count = counted(data.view, views)
    teacher = pseudo_teacher(data, count, seed, asked)
    described = {
        "kind": "pseudo",
        "model": "pseudo",
        "asked": teacher.to_json(),
        "shapes": {"logits": [len(data.train.classes)]},
    }
    loader = Loader(data.train, view, seed)
    remark(in_words(teacher, data.train.classes, count))
    return Dump(path, loader, None, count, seed, KnownTeacher(teacher), described, "st", codec).run(progress)
