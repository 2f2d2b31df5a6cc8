"""A finished cache file by a read-only memory map: its records, seeds and identities."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdcache.cache.base import Store
from kdcache.cache.mapped_file import MappedFile
from kdcache.checks import whole_numbers
from kdcache.errors import UsageError
from kdcache.types import Numbers, Shapes

if TYPE_CHECKING:
    from torch import Tensor


class Mapped(MappedFile, Store):
    """The part of reading that needs NumPy alone."""

    @property
    def meta(self) -> dict:
        return self.layout.meta

    @property
    def files(self) -> Sequence[Store]:
        return [self]

    @property
    def views(self) -> int:
        return self._views

    @property
    def shapes(self) -> Shapes:
        return {name: tuple(codec.shape) for name, codec in self.layout.codecs.items()}

    @property
    def names(self) -> list[str]:
        return list(self.layout.codecs)

    @property
    def labels(self) -> np.ndarray:
        return self._whole("labels").astype(np.int64)

    def labels_of(self, rows: Numbers) -> np.ndarray:
        return self._gather("labels", whole_numbers(self.path, "rows", rows, self._rows)).astype(np.int64)

    @property
    def digests(self) -> np.ndarray:
        return self._whole("digests")

    @property
    def eval_digests(self) -> np.ndarray | None:
        """uint64 [M]: a hash of each evaluation image; a file of version 1 has none."""
        return self._table("eval_digests").flat if "eval_digests" in self.layout.places else None

    @property
    def eval_labels(self) -> np.ndarray | None:
        """int64 [M]: the label of each evaluation image, -1 where there is none; a file of version 1 has none."""
        return self._table("eval_labels").flat.astype(np.int64) if "eval_labels" in self.layout.places else None

    @property
    def canaries(self) -> dict[str, np.ndarray]:
        return self._below("canaries/")

    def __len__(self) -> int:
        return self._rows

    def gather(self, items: np.ndarray, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        return self._taken(whole_numbers(self.path, "item numbers", items, self._rows * self._views), names, device)

    def read(
        self, view: int | Numbers, rows: Numbers, names: Sequence[str] | None = None, device="cpu"
    ) -> dict[str, Tensor]:
        return self._taken(self.items(view, rows), names, device)  # checked there, and not a second time

    def _taken(self, items: np.ndarray, names: Sequence[str] | None, device) -> dict[str, Tensor]:
        return {name: self._decode("knowledge", name, items, device) for name in self._known(names)}

    def read_eval(self, rows: Numbers, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        rows = whole_numbers(self.path, "evaluation rows", rows, self.meta["eval"]["rows"])
        return {name: self._decode("eval", name, rows, device) for name in self._known(names) if self.has_eval(name)}

    @abc.abstractmethod
    def _decode(self, kind: str, name: str, items: np.ndarray, device):
        """Knowledge (of `kind` "knowledge" or "eval") of these items as f32."""

    def seeds_of(self, items: np.ndarray) -> np.ndarray:
        return self._gather("seeds", whole_numbers(self.path, "item numbers", items, self._rows * self._views)).view(
            np.int64
        )

    def top1(self, view: int | Numbers, rows: Numbers) -> np.ndarray:
        return self.layout.codecs["logits"].top1(self.records("logits", view, rows))

    def eval_top1(self, rows: Numbers) -> np.ndarray:
        rows = whole_numbers(self.path, "evaluation rows", rows, self.meta["eval"]["rows"])
        return self.layout.codecs["logits"].top1(self._bytes("eval/logits", rows))

    def records(self, name: str, view: int | Numbers, rows: Numbers) -> np.ndarray:
        """The stored bytes of knowledge, undecoded: uint8 [n, record size]."""
        return self._bytes(f"knowledge/{self._known([name])[0]}", self.items(view, rows))

    def advise(self, view: int, names: Sequence[str]) -> None:
        for name in names:
            place = self.layout.places[f"knowledge/{name}"]
            size = self._rows * place.dtype.itemsize
            self._announce([(place.offset + view * size, size)])

    def has_eval(self, name: str) -> bool:
        return f"eval/{name}" in self.layout.places

    def bytes_of_view(self, names: Sequence[str]) -> int:
        return self._rows * sum(self.layout.codecs[name].size for name in names)

    def _known(self, names: Sequence[str] | None) -> Sequence[str]:
        if names is None:
            return self.names
        names = [names] if isinstance(names, str) else names
        for name in names:
            if name not in self.layout.codecs:
                raise UsageError(
                    self.path, f"knowledge out of {', '.join(self.names)}", repr(name), "name one of these"
                )
        return names

    def _bytes(self, dataset: str, items: np.ndarray) -> np.ndarray:
        records = self._gather(dataset, items)
        return records.view(np.uint8).reshape(len(items), records.itemsize)

    def _gather(self, dataset: str, items: np.ndarray) -> np.ndarray:
        return self._checked(dataset, items).flat.take(items)

    def _whole(self, dataset: str) -> np.ndarray:
        """A dataset of one view, not copied, and not to be written to."""
        return self._checked(dataset, np.arange(0, self._rows, self.layout.block_rows)).flat

    def _below(self, prefix: str) -> dict[str, np.ndarray]:
        places = {name: place for name, place in self.layout.places.items() if name.startswith(prefix)}
        return {n.removeprefix(prefix): self._table(n).flat.reshape(p.shape).copy() for n, p in places.items()}
