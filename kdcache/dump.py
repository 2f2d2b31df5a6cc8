"""The teacher runs once.

    identity -> X.part (whole size, canaries, digests) -> block by block: render, forward, project, encode, pwrite -> X

The bytes depend on the request alone: forward batches are cut the same way inside every block, so any number of
workers, ranks and interruptions ends in the same file.
"""

from __future__ import annotations

import importlib.metadata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from kdcache import codecs
from kdcache.batches import Loader, straight_plan
from kdcache.cache import Writer, create, open_cache
from kdcache.cache.layout import FORMAT, VERSION, Layout, block_rows, part_of
from kdcache.codecs import Codec
from kdcache.codecs.choose import auto
from kdcache.dist import Ranks
from kdcache.errors import CacheError, PipelineChanged
from kdcache.known import KnownTeacher
from kdcache.seeds import CANARY, PROBE, below, keyed
from kdcache.sources.arrays import quiet
from kdcache.teachers import LiveTeacher, require_finite
from kdcache.types import Knowledge
from kdcache.views.library import render_elsewhere

CANARIES, PROBES, THUMB = 64, 4096, 8
LIBRARIES = ("torch", "numpy", "pillow", "albumentations", "albucore", "opencv-python-headless")


@dataclass
class Dump:
    """Everything that decides the bytes of a cache, and the means to compute them."""

    path: Path
    loader: Loader  # the training images under the view
    held_out: Loader | None  # the evaluation images under the evaluation view
    views: int
    key: int
    teacher: LiveTeacher | KnownTeacher
    described: dict  # the teacher's identity
    method: str
    codec: str = "f16"  # of the logits; other knowledge has f16, f32 beside f32, or what its method wants

    def request(self) -> dict:
        """The identity of what was asked for: what a resumed dump must agree with."""
        held_out = self.held_out
        return {
            "source": self.loader.source.identity(),
            "eval": {"rows": len(held_out.source), "fingerprint": held_out.source.fingerprint()}
            if held_out
            else {"rows": 0},
            "view": self.loader.view.to_json(),
            "views": self.views,
            "run_key": self.key,
            "teacher": self.described,
            "forward": self.teacher.forward.to_json(),
            "method": self.method,
            "codec": self.codec,
        }

    def run(self, progress=quiet) -> Path:
        """Makes the file, or finishes one that was begun with the same request."""
        ranks = Ranks.from_environment()
        if self.path.exists():
            require_same(self.path, open_cache(self.path).meta, self.request(), "choose another -o or remove it")
            return self.path
        if not part_of(self.path).exists() and ranks.rank == 0:
            self.begin(progress)
        ranks.wait_for(part_of(self.path).exists)
        writer = Writer(self.path)
        try:
            remedy = "give the flags it was begun with, or remove it"
            require_same(writer.part, writer.layout.meta, self.request(), remedy)
            self.teacher.method.use(writer.constants())
            self.fill(writer, ranks, progress)
            if ranks.rank == 0:
                ranks.wait_for(lambda: all(writer.done(name).all() for name in writer.layout.filled()))
                writer.finish()
        finally:
            writer.close()
        return self.path

    def begin(self, progress=quiet) -> None:
        """Checks everything that can be checked before a byte is written; then makes X.part."""
        source, forward = self.loader.source, self.teacher.forward
        digests = source.check(progress)
        canaries = self.canaries()
        method = self.teacher.method
        constants = method.prepare(self.teacher.network, lambda: self.teacher.over(self.loader))
        method.use(constants)
        fitted, measured = self.fit_codecs()
        meta = self.request() | {
            "format": FORMAT,
            "version": VERSION,
            "requires": [],
            "block_rows": block_rows(forward.batch),
            "knowledge": {name: codec.to_json() for name, codec in fitted.items()},
            "measured": measured,
            "libraries": library_versions(),
        }
        fixed = {"labels": source.labels.astype("<i4")}
        fixed |= {f"canaries/{name}": array for name, array in canaries.items()}
        fixed |= {f"constants/{name}": value.cpu().numpy() for name, value in constants.items()}
        create(self.path, meta, fixed)
        writer = Writer(self.path)
        for block in range(writer.layout.blocks("digests")[1]):
            first = block * writer.layout.block_rows
            writer.put("digests", 0, block, digests[first : first + writer.layout.block_rows].astype("<u8"))
        writer.sync(always=True)
        writer.close()

    def canaries(self) -> dict[str, np.ndarray]:
        """Some sample-views with the CRC of their pixels and the teacher's answer; refuses a view that varies."""
        rows_of, views_of, _, _ = keyed(self.key, np.arange(CANARIES, dtype=np.int64), use=CANARY)
        n = len(self.loader.source)
        items = np.unique(below(views_of, self.views) * n + below(rows_of, n))
        images = self.loader.images(items)
        require_replay(self.loader, items, images)
        looks = self.teacher.show(self.loader.batch(images, items, None))
        require_finite("the teacher", looks, items % n)
        found = {
            "view": items // n,
            "row": items % n,
            "crc": pixel_crcs(images),
            "logits": looks["logits"].cpu().numpy() if "logits" in looks else None,
            "thumb": None if self.loader.view.native else thumbs(images),
        }
        return {name: value for name, value in found.items() if value is not None}

    def fit_codecs(self) -> tuple[dict[str, Codec], dict[str, list]]:
        """A codec for every knowledge, fitted on keyed rows of all classes and several views; what was measured."""
        n, few = len(self.loader.source), self.codec in ("f32", "f16")  # these two have nothing to measure
        words = keyed(self.key, np.arange(2 if few else PROBES, dtype=np.int64), use=PROBE)
        items = np.unique(below(words[1], self.views) * n + below(words[0], n))
        plan = straight_plan(items, self.teacher.forward.batch)
        parts = [self.teacher(b) for b in self.loader.run(plan, pixels=self.teacher.sees)]
        for part in parts:
            require_finite("the teacher", part, items % n)
        fitted, measured = {}, {}
        for name in parts[0]:
            values = torch.cat([part[name] for part in parts])
            wanted = self.codec if name == "logits" else self.teacher.method.codecs.get(name)
            wanted = wanted or ("f32" if self.codec == "f32" else "f16")
            if wanted == "auto":
                fitted[name], measured[name] = auto(values, shift_matters=self.teacher.method.shift_matters)
            else:
                shift = name == "logits" and self.teacher.method.shift_matters
                fitted[name] = codecs.named(wanted, values, shift)
        return fitted, measured

    def fill(self, writer: Writer, ranks: Ranks, progress=quiet) -> None:
        """Every block that is not done yet, of the training images and of the evaluation images."""
        layout, names = writer.layout, list(writer.layout.codecs)
        n = layout.rows
        done = np.logical_and.reduce([writer.done(name) for name in ("seeds", *(f"knowledge/{k}" for k in names))])
        todo = [tuple(b) for b in np.argwhere(~done).tolist()][ranks.rank :: ranks.world]
        for view, block, rows, knowledge in self.answers(self.loader, layout, todo, "knowledge", progress):
            writer.put("seeds", view, block, self.loader.seeds(np.full_like(rows, view), rows).view("<u8"))
            for name, records in knowledge.items():
                writer.put(f"knowledge/{name}", view, block, records)
            writer.sync()
        if self.held_out:
            done = np.logical_and.reduce([writer.done(f"eval/{name}") for name in names])
            todo = [tuple(b) for b in np.argwhere(~done).tolist()][ranks.rank :: ranks.world]
            for view, block, _, knowledge in self.answers(self.held_out, layout, todo, "eval", progress):
                for name, records in knowledge.items():
                    writer.put(f"eval/{name}", view, block, records)
        writer.sync(always=True)
        assert n == len(self.loader.source)

    def answers(self, loader: Loader, layout: Layout, todo: list, kind: str, progress) -> Iterator:
        """(view, block, rows, records by name) for each block, its forward batches cut the same way every time."""
        size, n = self.teacher.forward.batch, len(loader.source)
        spans = [(view, block, np.arange(*block_span(layout, block, n))) for view, block in todo]
        plan = ((view * n + rows[start : start + size]) for view, _, rows in spans for start in range(0, len(rows), size))
        batches = loader.run(plan, pixels=self.teacher.sees)
        for view, block, rows in progress(spans, total=len(spans), desc=f"dumping {kind}"):
            parts: list[Knowledge] = []
            for _ in range(0, len(rows), size):
                batch = next(batches)
                knowledge = self.teacher(batch)
                require_finite("the teacher", knowledge, batch.rows)
                parts.append({name: layout.codecs[name].encode(value) for name, value in knowledge.items()})
            yield view, block, rows, {name: torch.cat([p[name] for p in parts]).cpu().numpy() for name in layout.codecs}


def block_span(layout: Layout, block: int, rows: int) -> tuple[int, int]:
    return block * layout.block_rows, min((block + 1) * layout.block_rows, rows)


def pixel_crcs(images: torch.Tensor) -> np.ndarray:
    return np.array([zlib.crc32(image.numpy().tobytes()) for image in images.cpu()], dtype="<u4")


def thumbs(images: torch.Tensor) -> np.ndarray:
    """Averages over an 8x8 grid: what is compared where a library's pixels may differ by a few bits between CPUs."""
    return F.adaptive_avg_pool2d(images.cpu().float(), THUMB).round().to(torch.uint8).numpy()


def require_replay(loader: Loader, items: np.ndarray, images: torch.Tensor) -> None:
    """Renders again, for library views also in a fresh process."""
    again = [loader.images(items)]
    if not loader.view.native:
        n, few = len(loader.source), items[:4]
        seeds = torch.from_numpy(loader.seeds(few // n, few % n))
        again.append(render_elsewhere(loader.view, loader.source.read(few % n), seeds))
    for other in again:
        if not torch.equal(other.cpu(), images[: len(other)].cpu()):
            found = "other pixels the second time"
            remedy = "leave out what draws from a generator of its own, such as elastic noise without a seed"
            raise PipelineChanged(f"view {loader.view.name}", "a rendering that replays", found, remedy)


def require_same(path: Path, meta: dict, request: dict, remedy: str) -> None:
    """Names the first part of a request that differs from what a file holds."""
    for key, value in request.items():
        stored = meta.get(key)
        if key == "source" and isinstance(stored, dict):
            stored = stored | {"spec": value["spec"]}  # the same images may lie in another folder by now
        if stored != value:
            expected, found = difference(key, stored, value)
            raise CacheError(path, f"{expected}, as in the file", found, remedy)


def difference(key: str, stored, asked) -> tuple[str, str]:
    """The innermost place where two descriptions part."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for name in sorted(stored.keys() | asked.keys()):
            if stored.get(name) != asked.get(name):
                return difference(f"{key}.{name}", stored.get(name), asked.get(name))
    return f"{key} {shortened(stored)}", shortened(asked)


def shortened(value) -> str:
    text = str(value)
    return text if len(text) < 60 else text[:57] + "..."


def library_versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
