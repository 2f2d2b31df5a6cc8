"""The teacher runs once.

    identity -> X.part (whole size, canaries, digests) -> block by block: render, forward, project, encode, pwrite -> X

The bytes depend on the request alone: forward batches are cut the same way inside every block, so any number of
workers, ranks and interruptions ends in the same file.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcache import codecs
from kdcache.batches import Loader, straight_plan
from kdcache.cache import Writer, create
from kdcache.cache.blocks import Blocks
from kdcache.cache.creation import bytes_of
from kdcache.cache.intact import require_intact
from kdcache.cache.layout import block_rows, read_layout
from kdcache.cache.meta import FORMAT, VERSION, required
from kdcache.cache.same import require_same
from kdcache.cache.share import Shard
from kdcache.codecs import Codec
from kdcache.dump.filling import encoded, fill
from kdcache.dump.fitting import codec_of, fitted, require_stored
from kdcache.dump.stale import is_stale, remove_stale
from kdcache.dump.waiting import wait_for
from kdcache.durable import part_of, require_room
from kdcache.proof import canaries
from kdcache.proof.verdicts import require_every_digest, require_pixels
from kdcache.ranks import Ranks
from kdcache.seeds import PROBE, sample_views
from kdcache.teachers import Dumped, require_finite
from kdcache.types import quiet

PROBES = 4096
FEWER = {"f16": 512, "f32": 2}  # of codecs without parameters: f16 is probed for values that it cannot hold


@dataclass
class Dump:
    """Everything that decides the bytes of a cache, and the means to compute them."""

    path: Path
    loader: Loader  # the training images under the view
    held_out: Loader | None  # the evaluation images under the evaluation view
    views: int
    key: int
    teacher: Dumped
    described: dict  # the teacher's identity
    method: str
    codec: str = "f16"  # of the logits, or as `codecs.asked` reads it; other knowledge: see `fitting.codec_of`
    first_view: int = 0
    shard: Shard | None = None  # of a dump by machines that share no files; `path` is then the shard's own

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
            **({"shard": {"number": self.shard.number + 1, "of": self.shard.of}} if self.shard else {}),
        }

    def run(self, progress=quiet) -> Path:
        """Makes the file, or finishes one that was begun with the same request."""
        ranks, part = Ranks.from_environment(), part_of(self.path)
        begun_here, was_finished = False, self.path.exists()
        if not was_finished:
            request = self.request()
            if ranks.first:
                remove_stale(self.path, request)
                if not part.exists():
                    self.begin(progress)
                    begun_here = True
            # without an end, as the clock is a sign of life: the first one reads every image before
            wait_for(
                ranks, lambda: self.path.exists() or (part.exists() and not is_stale(part, request)), time.monotonic
            )
            try:
                writer = Writer(self.path, ranks)
            except FileNotFoundError:  # another dump has just finished it
                return self.run(progress)
            with writer:
                require_same(part, writer.layout.meta, request, "give the options it was begun with, or remove it")
                self.expect(writer)
                if not begun_here:
                    require_pixels(writer, self.loader, exact=True)
                self.teacher.method.use(writer.constants())
                self.fill(writer, progress)
                wait_for(ranks, lambda: self.completed(writer), writer.progress)
                wait_for(ranks, writer.finish_unless_others)
        finished = read_layout(self.path)
        require_intact(finished)
        require_same(self.path, finished.meta, self.request(), "remove it, or name another file with `out`")
        if was_finished:
            with Blocks(finished) as file:
                self.expect(file)
                require_pixels(file, self.loader)
                if self.held_out and "eval_digests" in file.layout.places:  # nothing will read these: all are hashed
                    digests = file.array("eval_digests")
                    require_every_digest(self.path, self.held_out.source, digests, "evaluation ", progress)
        return self.path

    def begin(self, progress=quiet) -> None:
        """Checks everything that can be checked before a byte is written; then makes X.part."""
        require_room(self.path)
        source, method = self.loader.source, self.teacher.method
        shown = canaries.made(self.loader, self.teacher, self.key, self.views)
        constants = self.teacher.prepare(self.loader)
        method.use(constants)
        fitted, measured = self.fit_codecs()
        meta = self.request() | {
            "format": FORMAT,
            "version": VERSION,
            "requires": required(len(source), bool(self.shard)),
            "block_rows": block_rows(self.teacher.forward.batch),
            "knowledge": {name: codec.to_json() for name, codec in fitted.items()},
            "loss": method.described(),  # what a student minimises, for `inspect`, which loads no torch
            "measured": measured,
            "libraries": canaries.library_versions(),
            **self.exactness(shown),
        }
        known = {"labels": source.labels.astype("<i4")}
        known |= {f"canaries/{name}": array for name, array in shown.items()}
        known |= {f"constants/{name}": value.cpu().numpy() for name, value in constants.items()}
        require_room(self.path, bytes_of(meta, known))
        known["digests"] = source.check(progress).astype("<u8")  # last, as it may read every file
        if self.held_out:
            known["eval_labels"] = self.held_out.source.labels.astype("<i4")
            known["eval_digests"] = self.held_out.source.check(progress).astype("<u8")
        create(self.path, meta, known)

    def exactness(self, shown: dict) -> dict:
        """Whether the teacher's answers depend on the other images asked about, as measured on the canaries."""
        if not self.teacher.sees:
            return {}
        images = self.loader.images(shown["view"] * len(self.loader.source) + shown["row"])
        found = self.teacher.exactness(images)
        return {"exactness": found} if found else {}

    def expect(self, file: Blocks) -> None:
        """From now on, an image that is replaced is an error."""
        self.loader.expect(file.digests)
        if self.held_out and "eval_digests" in file.layout.places:
            self.held_out.expect(file.array("eval_digests"))

    def fit_codecs(self) -> tuple[dict[str, Codec], dict[str, list]]:
        """A codec for every knowledge, fitted on keyed rows of all classes and several views; what was measured."""
        items = sample_views(self.key, FEWER.get(self.codec, PROBES), len(self.loader.source), self.views, PROBE)
        plan = straight_plan(items, self.teacher.forward.batch)
        parts: dict[str, list] = {}
        for batch in self.loader.run(plan, pixels=self.teacher.sees):
            knowledge = self.teacher(batch)
            require_finite("the teacher", knowledge, batch.rows)
            for name, values in knowledge.items():
                wanted = codec_of(self.teacher.method, name, self.codec)
                if wanted in FEWER:  # it has nothing to fit, and features of so many rows might fill the memory
                    encoded(codecs.named(wanted, values), name, values, batch.rows, batch.views)
                    values = values[:2]
                parts.setdefault(name, []).append(values)
        require_stored(self.codec, parts)
        chosen: dict[str, Codec] = {}
        measured: dict[str, list] = {}
        for name, several in parts.items():
            chosen[name], table = fitted(self.teacher.method, name, torch.cat(several), self.codec)
            measured |= {name: table} if table else {}
        return chosen, measured

    def fill(self, writer: Writer, progress=quiet) -> None:
        """Every block that is not done yet and that no other rank is at."""
        fill(writer, self.teacher, self.loader, self.held_out, progress)

    def completed(self, writer: Writer) -> bool:
        """Whether all is done, once this rank has filled what others that died were at."""
        if writer.complete():
            return True
        self.fill(writer)
        return writer.complete()
