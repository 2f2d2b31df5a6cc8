"""What can be read of finished caches, whether it is one file or several that are read as one."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np

from kdcache.cache.lookup import Lookup
from kdcache.checks import array_of, whole_numbers
from kdcache.errors import UsageError
from kdcache.seeds import VISIT, below, keyed
from kdcache.types import Numbers, Shapes
from kdcache.wording import count

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.cache.render import Renderer

Held: TypeAlias = "Callable[[Tensor], dict[str, Tensor]]"
"""The knowledge of one view that lies on a device: rows there -> decoded."""


class Store(abc.ABC):
    """Knowledge by item number, v*N+i for row i of N in view v, beside the facts of the file it comes from."""

    path: Path
    """Of the file, or of the first of several; errors name it."""

    @property
    @abc.abstractmethod
    def meta(self) -> dict:
        """The header: source, view, teacher, forward settings, knowledge."""

    @property
    @abc.abstractmethod
    def files(self) -> Sequence[Store]:
        """The files that it reads: itself, or those that were joined."""

    @property
    @abc.abstractmethod
    def views(self) -> int: ...

    @property
    @abc.abstractmethod
    def shapes(self) -> Shapes:
        """Of the knowledge in it, by name: the shape of one row."""

    @property
    @abc.abstractmethod
    def labels(self) -> np.ndarray:
        """int64 [N]; -1 where there is none."""

    def labels_of(self, rows: Numbers) -> np.ndarray:
        """int64 [n]: those of some rows."""
        return self.labels[rows]

    @property
    @abc.abstractmethod
    def digests(self) -> np.ndarray:
        """uint64 [N]: a hash of each image."""

    @property
    @abc.abstractmethod
    def eval_digests(self) -> np.ndarray | None:
        """uint64 [M]: a hash of each evaluation image; a file of version 1 has none."""

    @property
    @abc.abstractmethod
    def eval_labels(self) -> np.ndarray | None:
        """int64 [M]; a file of version 1 has none."""

    @property
    def known(self) -> np.ndarray | None:
        """bool [N]: which rows it has answers to; None: all."""
        return None

    @property
    @abc.abstractmethod
    def constants(self) -> Mapping[str, Tensor]:
        """What a method made of the teacher before the dump."""

    @property
    @abc.abstractmethod
    def canaries(self) -> Mapping[str, np.ndarray]:
        """Some sample-views that prove that replay still gives what the teacher saw."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """N, the rows of a view."""

    @abc.abstractmethod
    def gather(self, items: np.ndarray, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        """Knowledge of sample-views, decoded to f32, in the order asked for."""

    @abc.abstractmethod
    def seeds_of(self, items: np.ndarray) -> np.ndarray:
        """The augmentation seeds of sample-views, as int64 bit patterns."""

    @abc.abstractmethod
    def has_eval(self, name: str) -> bool:
        """Whether it holds this knowledge of the evaluation images, too."""

    @abc.abstractmethod
    def read_eval(self, rows: Numbers, names: Sequence[str] | None = None, device="cpu") -> dict[str, Tensor]:
        """What the teacher said of un-augmented evaluation images."""

    @abc.abstractmethod
    def advise(self, view: int, names: Sequence[str]) -> None:
        """Asks the system to read a view into its page cache in the background."""

    def require_unchanged(self) -> None:
        """Refuses to go on where a file was truncated, written to or replaced since it was opened."""
        for file in self.files:
            file.require_unchanged()

    @abc.abstractmethod
    def bytes_of_view(self, names: Sequence[str]) -> int:
        """The size of what `hold` keeps."""

    @abc.abstractmethod
    def hold(self, view: int, names: Sequence[str], device) -> Held:
        """A view's knowledge, copied to a device."""

    def close(self) -> None:
        """Lets go of the files; whoever reads on opens them again."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __repr__(self) -> str:
        teacher = self.meta["teacher"]
        shown = f"{count(len(self), 'row')} x {count(self.views, 'view')} of {', '.join(self.names)}"
        return f"{type(self).__name__}({self.name!r}): {shown} by {teacher.get('model', teacher.get('kind', '?'))}"

    @property
    def name(self) -> str:
        """The place of the file, or of the first of several, as a user named it."""
        return str(self.path)

    @property
    def notes(self) -> Sequence[str]:
        """What a user of it should be told."""
        return ()

    @property
    def names(self) -> list[str]:
        """The names of the knowledge in it."""
        return list(self.shapes)

    @property
    def classes(self) -> list[str]:
        return self.meta["source"]["classes"]

    def read(
        self, view: int | Numbers, rows: Numbers, names: Sequence[str] | None = None, device="cpu"
    ) -> dict[str, Tensor]:
        """Knowledge of these rows in a view (or in one view each), decoded to f32, in the order asked for."""
        return self.gather(self.items(view, rows), names, device)

    def top1(self, view: int | Numbers, rows: Numbers) -> np.ndarray:
        """The classes that the stored logits of these rows name."""
        return self.read(view, rows, ["logits"])["logits"].argmax(1).numpy()

    def eval_top1(self, rows: Numbers) -> np.ndarray:
        """The classes that the stored logits of these evaluation rows name."""
        return self.read_eval(rows, ["logits"])["logits"].argmax(1).numpy()

    def seeds(self, view: int | Numbers, rows: Numbers) -> np.ndarray:
        """The augmentation seeds of these rows in a view (or in one view each)."""
        return self.seeds_of(self.items(view, rows))

    @cached_property
    def lookup(self) -> Lookup:
        """Its rows by the digests of their images: sorted once, 12 bytes a row."""
        return Lookup(self.digests)

    def rows_of(self, digests: Numbers) -> np.ndarray:
        """The rows of images, by the digests of their encoded bytes: int64 [n], -1 where it knows no such image.

        `kdcache.digest` makes one of the bytes of a file. Images of the same bytes share the first row.

        >>> import kdcache
        >>> cache = kdcache.open_cache("logits.h5")
        >>> cache.rows_of([kdcache.digest(b"another image"), *cache.digests[[5, 3]]])
        array([-1,  5,  3])
        """
        return self.lookup.rows_of(digests)

    def view_at(self, row: int | np.ndarray, visit: int | np.ndarray, seed: int = 0) -> int | np.ndarray:
        """The view to show of a row on a visit, counted from 0: each once in so many visits as there are views.

        Nothing else decides on it, so that no worker of a stream has to know what others have shown.

        >>> import kdcache
        >>> cache = kdcache.open_cache("logits.h5")
        >>> sorted(cache.view_at(5, visit) for visit in range(cache.views)) == list(range(cache.views))
        True
        """
        return (visit + below(keyed(seed, row, use=VISIT)[0], self.views)) % self.views

    @cached_property
    def renderer(self) -> Renderer:
        from kdcache.cache.render import Renderer

        return Renderer(self)

    def render(self, row: int, view: int, data: bytes | np.ndarray | Tensor, augment: str | None = None) -> Tensor:
        """What the teacher saw of a row in a view, uint8 [3, h, w], from the bytes of its image as they are stored.

        It may be called from any thread and process. Of images without files, `data` is their pixels, uint8 [3, h, w].
        Bytes of another image are refused. `augment` names the view where it is code of yours.

        >>> import kdcache
        >>> data = kdcache.CachedDataset("logits.h5")
        >>> pixels = data.source.read([5])[0]  # for the digits have no files
        >>> torch.equal(data.cache.render(5, 3, pixels), data.view(3)[5][0])
        True
        """
        return self.renderer.render(row, view, data, augment)

    def items(self, view: int | Numbers, rows: Numbers) -> np.ndarray:
        """The item numbers of rows in a view, or in one view each."""
        n = len(self)
        rows = whole_numbers(self.path, "rows", rows, n)
        if isinstance(view, int) and 0 <= view < self.views:  # by far the most frequent
            return rows + view * n if view else rows
        view = array_of(view)
        if view.ndim:
            view = whole_numbers(self.path, "views", view, self.views)
            if len(view) != len(rows):
                raise UsageError(self.path, f"one view, or {len(rows)}", f"{len(view)}", "give one for each row")
        else:
            view = int(whole_numbers(self.path, "views", view[None], self.views)[0])
        return view * n + rows
