"""Where a recipe runs, and its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdcache import jobs
from kdcache.recipe.identity import code_of, images_of
from kdcache.runs import folder_name, keyed_name
from kdcache.sources import Source, open_source


@dataclass
class Setup:
    """Folder, device and images, each part of which is opened once."""

    root: Path
    device: str
    workers: int | None
    spec: str | None = None
    augment: str | None = None
    pack: Path | None = None  # of the images, which is read in their place once it is there
    short: int | None = None
    opened: dict[tuple, Source] = field(default_factory=dict)
    parts: dict[float, jobs.Data] = field(default_factory=dict)
    described: dict[int, tuple[jobs.Data, dict]] = field(default_factory=dict)
    coded: dict[str, str | None] = field(default_factory=dict)

    def source(self, spec: str, split: str = "train", fraction: float = 1.0, place: str | None = None) -> Source:
        """As `open_source` does."""
        fraction = fraction if split == "train" else 1.0  # of evaluation images there are no parts
        key = spec, split, fraction, place
        if key not in self.opened:
            whole = None if fraction == 1 else self.source(spec, split, place=place)
            self.opened[key] = whole.part(fraction) if whole else self.whole(spec, split, place)
        return self.opened[key]

    def whole(self, spec: str, split: str, place: str | None) -> Source:
        """The images, or those that were packed, under the name of the images unless they were shrunk."""
        if self.pack is None or not self.pack.exists() or spec != (self.spec or jobs.DEFAULT_DATA):
            return open_source(spec, split, place=place)
        found = open_source(f"pack:{self.pack}", split)
        if self.short is None:
            found.spec = spec
        return found

    def to_be_packed(self, short: int | None) -> None:
        """Names the place of a pack: by the images as they are now."""
        spec = self.spec or jobs.DEFAULT_DATA
        held_out = open_source(spec, "eval")
        evaluated = held_out.fingerprint() if len(held_out) else None
        facts = {"images": open_source(spec).fingerprint(), "evaluated": evaluated, "short": short}
        named = keyed_name(folder_name(self.root, "pack", spec), {}, facts)
        self.pack, self.short = named.with_name(f"{named.name}.kdp"), short

    def data(self, fraction: float) -> jobs.Data:
        if fraction not in self.parts:
            self.parts[fraction] = jobs.Data.open(self.spec, self.augment, fraction, self.source)
        return self.parts[fraction]

    def images(self, data: jobs.Data) -> dict:
        """What `images_of` says of them; it looks at all that are in memory, once."""
        if id(data) not in self.described:
            found = images_of(data)
            if self.short is not None:  # a pack's own name holds the folder that it lies in
                found["data"] |= {"spec": self.called(data)}
            self.described[id(data)] = data, found
        return self.described[id(data)][1]

    def called(self, data: jobs.Data) -> str:
        """The name of the images; of shrunk ones that of what they were made of."""
        return data.train.spec if self.short is None else f"{self.spec or jobs.DEFAULT_DATA}, short {self.short}"

    def code(self, model: str, data: jobs.Data) -> str | None:
        """What `code_of` says of a network; it is built once."""
        if model not in self.coded:
            self.coded[model] = code_of(model, data)
        return self.coded[model]

    def how(self, data: jobs.Data) -> dict:
        return {"device": self.device, "workers": jobs.workers_for(data, self.workers)}

    def folder(self, facts: Mapping, *name: str) -> Path:
        """The folder of these facts, whatever it was called when it was made."""
        new = keyed_name(folder_name(self.root, *name), {}, facts)
        if new.exists():
            return new
        key = new.name.rpartition("-")[2]
        kept = f"{name[0]}-*" if name[0] in ("teacher", "cache") else f"*-{name[-1]}"  # six digits alone may be shared
        return next(iter(sorted(self.root.glob(f"{kept}-{key}"))), new)
