"""What a teacher saw and said, as datasets for a training loop of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kdcache import jobs
from kdcache.batches import Loader
from kdcache.cache import Cache, Store, open_cache
from kdcache.errors import UsageError
from kdcache.models.normalize import Normalize
from kdcache.proof.verdicts import require_eval_images, require_pixels
from kdcache.seeds import permutation
from kdcache.sources.adopted import AdoptedSource
from kdcache.types import Batch, Numbers
from kdcache.wording import by, count


class CachedDataset(Dataset):
    """What the teacher saw and said, for any training loop: (uint8 image, label, teacher's logits).

    With `one_hot=True` the label is a target for each class, f32 [C], as `cross_entropy` takes it, too, smoothed with
    `label_smoothing`. Where the view mixes images, labels are such targets anyway. What has no label has zeros.

    Item number v*N+i is row i in view v; nothing depends on what was asked before, or in which process.

    A view that is code of yours is named, as `augment="torchvision:my_views:make"`; no file has it imported by itself.

    >>> data = CachedDataset("logits.h5")
    >>> for images, labels, logits in DataLoader(data.view(0), 128, shuffle=True): ...

    For many epochs with workers that live on, hand out item numbers instead:

    >>> loader = DataLoader(data, 128, sampler=data.epochs(seed=0), num_workers=2, persistent_workers=True)

    With `names`, the third part is a dict of several kinds of knowledge. The evaluation images are a dataset, too:

    >>> data = CachedDataset("logits.h5", names=["logits"])
    >>> image, label, knowledge = data[0]
    >>> knowledge["logits"].shape
    torch.Size([10])
    >>> for images, labels in DataLoader(data.evaluation(answers=False), 128): ...

    Images that were renamed, filtered, sharded anew or joined by others are found by content: `images` is a data set of
    yours, which gives bytes, paths, uint8 pixels or PIL images, with labels or without; or `data` is the name of one.
    An image that the cache does not know is refused; `missing="skip"` leaves it out; with `"plain"` it has a label
    alone, and a fourth part says of each image whether its answer is known. `rows`, where you know the cache's row of
    each image, saves reading all of them at once: some are compared then, the others when they are read.
    `tolerate_decoder` goes on where files are decoded otherwise by at most so many levels of 256.

    >>> photos = CachedDataset("logits.h5", images=[pixels.numpy() for pixels in data.source.read([7, 5])])
    >>> torch.equal(photos.view(3)[1][2], data.view(3)[5][2]["logits"])
    True
    """

    def __init__(
        self, path: str | os.PathLike | Cache, data: str | None = None, name: str = "logits",
        augment: str | None = None, *, names: Sequence[str] | None = None, one_hot: bool = False,
        label_smoothing: float = 0.0, images=None, missing: str = "refuse", rows: Numbers | None = None,
        tolerate_decoder: int | None = None,
    ):  # fmt: skip
        self.cache = path if isinstance(path, Store) else open_cache(path)
        self.smoothing = jobs.SMOOTHING.checked("`label_smoothing`", label_smoothing)
        self.soft = one_hot or self.smoothing > 0
        self.named = Named.of(self.cache, name, names)
        self.tells = missing == "plain"
        self.opened, self.cache = jobs.images_of(self.cache, data, images, augment, missing, rows)
        self.opened.tolerate(tolerate_decoder)
        self.source = self.opened.train
        self.loader = Loader(self.source, self.opened.view, self.cache)
        require_pixels(self.cache, self.loader)

    def __repr__(self) -> str:
        shown = f"{count(self.views, 'view')} of {count(len(self.source), 'row')} of {self.source.spec}"
        view = f"{self.loader.view.name} {by(self.loader.view.size)}"
        return f"CachedDataset({str(self.cache.path)!r}): {shown}, {view}, with {', '.join(self.named.names)}"

    @property
    def views(self) -> int:
        return self.cache.views

    @property
    def classes(self) -> list[str]:
        return self.cache.classes

    def view(self, epoch: int) -> CachedView:
        """One epoch: every row once, in view `epoch` modulo the number of views."""
        self.cache.require_unchanged()
        return CachedView(self, epoch % self.views)

    def epochs(self, seed: int = 0, first: int = 0, shuffle: bool = True) -> Epochs:
        """A sampler of item numbers: each pass over it is the next epoch, in the next view."""
        return Epochs(len(self.source), self.views, seed, first, shuffle)

    def evaluation(self, answers: bool = True) -> EvaluationImages:
        """The evaluation images, un-augmented: (uint8 image, label, the teacher's answer), or the first two."""
        return EvaluationImages(self, answers)

    def numbered(self) -> NumberedImages:
        """The images of an epoch for a trainer that makes its own loader: (uint8 image, [label, item number])."""
        if self.soft:
            found, remedy = "targets of all classes", "give `label_smoothing` to KnowledgeLoss, and leave `one_hot` out"
            raise UsageError("numbered()", "labels as they are", found, remedy)
        return NumberedImages(self)

    def normalize(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Normalize:
        """A module that makes of uint8 images what a network is fed with; None: the mean and std of the data."""
        return Normalize(*(jobs.normalisation(mean, std) or (self.source.mean, self.source.std)))

    def __len__(self) -> int:
        return len(self.source) * self.views

    def __getitem__(self, item: int) -> tuple[Tensor, int, Answer]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Numbers) -> list[tuple[Tensor, int, Answer]]:
        items = within(items, len(self), "item numbers")
        batch = self.loader.show(items)
        answers = self.named.rows(self.cache.gather(items, self.named.names))
        parts: list[Iterable] = [batch.images, self.labels(batch), answers]
        if self.tells:
            parts.append([True] * len(items) if batch.known is None else batch.known.tolist())
        return list(zip(*parts, strict=True))

    def labels(self, batch: Batch) -> list[int] | Tensor:
        """Class numbers, or targets for each class."""
        if batch.shares is None and not self.soft:
            return batch.targets.tolist()
        return soft_targets(batch, len(self.classes), self.smoothing)


Answer: TypeAlias = Tensor | dict[str, Tensor]


class Named(NamedTuple):
    """Which knowledge is handed out: of one kind as it is, of several by name."""

    names: list[str]
    several: bool

    @classmethod
    def of(cls, cache: Store, name: str, names: Sequence[str] | None) -> Named:
        """One name, or several; refuses what a cache does not have."""
        if isinstance(names, str):
            name, names = names, None
        found = cls([name] if names is None else list(names), names is not None)
        if not found.names:
            remedy = f"name some of {', '.join(cache.names)}"
            raise UsageError("`names`", "one kind of knowledge or more", "none", remedy)
        for one in found.names:
            if one not in cache.names:
                held = ", ".join(cache.names)
                raise UsageError(cache.path, f"knowledge {one!r}", f"only {held}", "name one of these")
        return found

    def rows(self, knowledge: dict[str, Tensor]) -> list[Answer]:
        if not self.several:
            return list(knowledge[self.names[0]])
        parts = zip(*(knowledge[name] for name in self.names), strict=True)
        return [dict(zip(self.names, row, strict=True)) for row in parts]


class EvaluationImages(Dataset):
    """The evaluation images of a CachedDataset, and what the teacher said of them."""

    def __init__(self, data: CachedDataset, answers: bool):
        if isinstance(data.opened.held_out, AdoptedSource):
            remedy = "take those of a CachedDataset without `images`"
            raise UsageError(data.cache.path, "evaluation images", "training images alone", remedy)
        self.cache, self.named = data.cache, data.named if answers else None
        self.loader = data.opened.held_out_loader("cpu", 0)
        if answers:
            self._require_answers(data.named.names)

    def _require_answers(self, names: Sequence[str]) -> None:
        remedy = "take evaluation(answers=False) for images and labels alone"
        if missing := [name for name in names if not self.cache.has_eval(name)]:
            raise UsageError(self.cache.path, f"{missing[0]} of the evaluation images", "none", remedy)
        if not require_eval_images(self.cache, self.loader.source):
            raise UsageError(self.cache.path, "answers to these evaluation images", "answers to others", remedy)

    def __len__(self) -> int:
        return len(self.loader.source)

    def __getitem__(self, row: int) -> tuple:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Numbers) -> list[tuple]:
        rows = within(rows, len(self), "rows")
        batch = self.loader.show(rows)
        parts: list[Iterable] = [batch.images, batch.targets.tolist()]
        if self.named:
            parts.append(self.named.rows(self.cache.read_eval(rows, self.named.names)))
        return list(zip(*parts, strict=True))


def soft_targets(batch: Batch, classes: int, smoothing: float = 0.0) -> Tensor:
    """f32 [n, C]: the shares of the labels of each image, perhaps smoothed; what has no label adds nothing."""
    out = torch.zeros(len(batch), classes)
    parts = [(batch.targets, torch.ones(len(batch)))]
    if batch.shares is not None and batch.others is not None:
        parts = [(batch.targets, batch.shares), (batch.others, 1 - batch.shares)]
    for targets, share in parts:
        out.scatter_add_(1, targets.clamp(min=0)[:, None], (share * (targets >= 0))[:, None])
    return (1 - smoothing) * out + smoothing / classes * out.sum(1, keepdim=True) if smoothing else out


class CachedView(Dataset):
    """The rows of a CachedDataset in one view."""

    def __init__(self, data: CachedDataset, number: int):
        self.data, self.number = data, number

    def __len__(self) -> int:
        return len(self.data.source)

    def __getitem__(self, row: int) -> tuple[Tensor, int, Answer]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Numbers) -> list[tuple[Tensor, int, Answer]]:
        return self.data.__getitems__(self.number * len(self) + within(rows, len(self), "rows"))


class NumberedImages(Dataset):
    """The images of an epoch, each with an int64 tensor [label, item number], by which a `KnowledgeLoss` finds answers.

    Epoch e, from 0, is view e modulo the number of views; most trainers call `set_epoch` themselves.

    >>> images = CachedDataset("logits.h5").numbered()
    >>> images.set_epoch(2)
    >>> image, (label, item) = images[7]
    >>> int(item) == 2 * len(images) + 7
    True
    """

    def __init__(self, data: CachedDataset):
        self.data = data
        self.shown = torch.full((1,), -1).share_memory_()  # -1: none yet; workers that live on see it change

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.shown.share_memory_()  # a copy is not, by itself

    def set_epoch(self, epoch: int) -> None:
        """Goes on to an epoch, from 0, in every process that reads this data set."""
        self.data.cache.require_unchanged()
        self.shown.fill_(epoch)

    @property
    def epoch(self) -> int | None:
        """From 0; None before the first `set_epoch`."""
        epoch = int(self.shown)
        return epoch if epoch >= 0 else None

    def __len__(self) -> int:
        return len(self.data.source)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Numbers) -> list[tuple[Tensor, Tensor]]:
        view = (self.epoch or 0) % self.data.views
        items = view * len(self) + within(rows, len(self), "rows")
        batch = self.data.loader.show(items)
        targets = torch.stack([batch.targets, torch.from_numpy(items)], 1)
        return list(zip(batch.images, targets, strict=True))


def within(numbers: Numbers, stop: int, what: str) -> np.ndarray:
    """Whole numbers from 0 to stop - 1; counting from the end would hide mistakes in item numbers."""
    if any(isinstance(number, slice) for number in numbers):
        raise TypeError(f"{what} are whole numbers, not slices; torch.utils.data.Subset(data, range(10)) is a part")
    found = np.asarray(numbers)
    if found.size and found.dtype.kind not in "iu":
        raise TypeError(f"{what} are whole numbers, not {found.dtype}")
    if found.size and (found.min() < 0 or found.max() >= stop):
        raise IndexError(f"{what} go from 0 to {stop - 1}")
    return found.astype(np.int64)


class Epochs(Sampler[int]):
    """Item numbers, a keyed order for each epoch; in the main process, so that workers need know nothing."""

    def __init__(self, rows: int, views: int, seed: int, first: int, shuffle: bool):
        self.rows, self.views, self.seed, self.epoch, self.shuffle = rows, views, seed, first, shuffle

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1  # not before a number is wanted: loaders may ask twice
        order = permutation(self.rows, self.seed, epoch) if self.shuffle else np.arange(self.rows)
        yield from (epoch % self.views * self.rows + order).tolist()
