"""The teacher runs once.

    identity -> X.part (whole size, canaries, digests) -> block by block: render, forward, project, encode, pwrite -> X

The bytes depend on the request alone: forward batches are cut the same way inside every block, so any number of
workers, ranks and interruptions ends in the same file.
"""

from __future__ import annotations

import importlib.metadata
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from kdcache import codecs
from kdcache.batches import Loader, straight_plan
from kdcache.cache import Writer, create
from kdcache.cache.creation import bytes_of, require_room
from kdcache.cache.layout import THUMB, block_rows, part_of, read_layout
from kdcache.cache.meta import APART, FORMAT, VERSION
from kdcache.cache.ranks import Ranks
from kdcache.cache.reader import require_intact
from kdcache.codecs import Codec
from kdcache.codecs.choose import auto
from kdcache.dump.filling import fill
from kdcache.errors import CacheError, LibraryChanged, PipelineChanged
from kdcache.runs import difference, shortened
from kdcache.seeds import CANARY, PROBE, sample_views
from kdcache.teachers import LiveTeacher, require_finite
from kdcache.teachers.known import KnownTeacher
from kdcache.types import quiet
from kdcache.views import View
from kdcache.views.library import LIBRARIES, render_elsewhere

CANARIES, PROBES = 64, 4096
RECORDED = ("torch", "numpy", "pillow", *dict.fromkeys(name for kind in LIBRARIES.values() for name in kind.packages))
NAMES = {"run_key": "seed", "source.fingerprint": "data", "eval.fingerprint": "evaluation data"}  # as users know them


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
    first_view: int = 0
    shard: Ranks | None = None  # of a dump by machines that share no files; `path` is then the shard's own

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
            "first_view": self.first_view,
            **({"shard": {"number": self.shard.rank + 1, "of": self.shard.world}} if self.shard else {}),
        }

    def run(self, progress=quiet) -> Path:
        """Makes the file, or finishes one that was begun with the same request."""
        ranks, part = Ranks.from_environment(), part_of(self.path)
        begun_here = False
        if not self.path.exists():
            if ranks.rank == 0 and not part.exists():
                self.begin(progress)
                begun_here = True
            ranks.wait_for(lambda: part.exists() or self.path.exists())
            try:
                writer = Writer(self.path, ranks)
            except FileNotFoundError:  # another dump has just finished it
                return self.run(progress)
            with writer:
                require_same(part, writer.layout.meta, self.request(), "give the flags it was begun with, or remove it")
                if not begun_here:
                    self.require_unchanged(writer)
                self.teacher.method.use(writer.constants())
                self.fill(writer, self.shard or ranks, progress)
                ranks.wait_for(writer.complete if ranks.rank == 0 else self.path.exists, writer.progress)
                if ranks.rank == 0:
                    writer.finish()
        finished = read_layout(self.path)
        require_intact(finished)
        require_same(self.path, finished.meta, self.request(), "choose another -o or remove it")
        return self.path

    def begin(self, progress=quiet) -> None:
        """Checks everything that can be checked before a byte is written; then makes X.part."""
        require_room(self.path)
        source, method = self.loader.source, self.teacher.method
        canaries = self.canaries()
        constants = method.prepare(self.teacher.network, lambda: self.teacher.over(self.loader))
        method.use(constants)
        fitted, measured = self.fit_codecs()
        meta = self.request() | {
            "format": FORMAT,
            "version": VERSION,
            "requires": ["shard"] if self.shard else [],
            "block_rows": block_rows(self.teacher.forward.batch),
            "knowledge": {name: codec.to_json() for name, codec in fitted.items()},
            "measured": measured,
            "libraries": library_versions(),
        }
        known = {"labels": source.labels.astype("<i4")}
        known |= {f"canaries/{name}": array for name, array in canaries.items()}
        known |= {f"constants/{name}": value.cpu().numpy() for name, value in constants.items()}
        require_room(self.path, bytes_of(meta, known))
        known["digests"] = source.check(progress).astype("<u8")  # last, as it may read every file
        create(self.path, meta, known)

    def require_unchanged(self, writer: Writer) -> None:
        """Refuses to go on where images or their rendering are not those that the file was begun with."""
        self.loader.source.expect(writer.array("digests"))
        views, rows, crcs = (writer.array(f"canaries/{name}") for name in ("view", "row", "crc"))
        images = self.loader.images(views * len(self.loader.source) + rows)
        if differ := int((pixel_crcs(images) != crcs).sum()):
            place, expected = f"{writer.part}, view {self.loader.view.name}", "the pixels it was begun with"
            changed = changed_libraries(writer.layout.meta, self.loader.view)
            remedy = "restore what it was begun with, or remove it"
            found = f"other pixels in {differ} of {len(rows)} canaries{f', with {changed}' if changed else ''}"
            raise (LibraryChanged if changed else PipelineChanged)(place, expected, found, remedy)

    def canaries(self) -> dict[str, np.ndarray]:
        """Some sample-views with the CRC of their pixels and the teacher's answer; refuses a view that varies."""
        n = len(self.loader.source)
        items = sample_views(self.key, CANARIES, n, self.views, CANARY)
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
        few = self.codec in ("f32", "f16")  # these two have nothing to measure
        items = sample_views(self.key, 2 if few else PROBES, len(self.loader.source), self.views, PROBE)
        plan = straight_plan(items, self.teacher.forward.batch)
        parts = []
        for batch in self.loader.run(plan, pixels=self.teacher.sees):
            parts.append(self.teacher(batch))
            require_finite("the teacher", parts[-1], batch.rows)
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
        """Every block that is not done yet and falls to this rank."""
        fill(writer, self.teacher, self.loader, self.held_out, ranks, progress)


def pixel_crcs(images: torch.Tensor) -> np.ndarray:
    return np.array([zlib.crc32(image.numpy().tobytes()) for image in images.cpu()], dtype="<u4")


def thumbs(images: torch.Tensor) -> np.ndarray:
    """Averages over an 8x8 grid: what is compared where a library's pixels may differ by a few bits between CPUs."""
    return F.adaptive_avg_pool2d(images.cpu().float(), THUMB[1:]).round().to(torch.uint8).numpy()


def require_replay(loader: Loader, items: np.ndarray, images: torch.Tensor) -> None:
    """Renders again, for library views also in a fresh process."""
    pairs = [(images, loader.images(items))]
    if not loader.view.native:
        library = loader.view.plain
        n, few = len(loader.source), items[:4]
        given = loader.source.read(few % n), torch.from_numpy(loader.seeds(few // n, few % n))
        pairs.append((library.render(*given), render_elsewhere(library, *given)))
    for first, second in pairs:
        if not torch.equal(first.cpu(), second.cpu()):
            found = "other pixels the second time"
            remedy = "leave out what draws from a generator of its own, such as elastic noise without a seed"
            raise PipelineChanged(f"view {loader.view.name}", "a rendering that replays", found, remedy)


def require_same(path: Path, meta: dict, request: dict, remedy: str, where: str = "in the file") -> None:
    """Names the first part of a request that differs from what a file holds."""
    asked = dict.fromkeys(APART) | json.loads(json.dumps(request))  # as it would be read back
    stored = {key: meta.get(key) for key in asked}
    stored["source"] = stored["source"] | {"spec": asked["source"]["spec"]}  # it may lie in another folder by now
    if stored != asked:
        name, expected, found = difference(stored, asked)
        name = NAMES.get(name, name)
        raise CacheError(path, f"{name} {shortened(expected)}, as {where}", shortened(found), remedy)


def library_versions() -> dict[str, str]:
    found = {}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def changed_libraries(meta: dict, view: View) -> str:
    """What a view's pixels depend on and has another version than when a file was begun."""
    now = library_versions()
    stored = {k: v for k, v in meta["libraries"].items() if k in ("pillow", *view.plain.packages)}
    return ", ".join(f"{k} {now.get(k, 'missing')} instead of {v}" for k, v in stored.items() if now.get(k) != v)
