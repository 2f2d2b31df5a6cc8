"""Data that are not here: how many images there are, and what stands in for them while a plan measures."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kdcache.checks import advice
from kdcache.errors import UsageError
from kdcache.jobs.data import Data
from kdcache.sources import open_source
from kdcache.sources.arrays import ArraySource
from kdcache.views import open_view

PHOTOGRAPH, MOST_SIDE = 256, 4096  # pixels of a side
MOST_ROWS, MOST_CLASSES = 10**13, 10**7


@dataclass(frozen=True)
class Like:
    """How many images, and how many classes a teacher tells apart."""

    rows: int
    classes: int
    held_out: int = 0
    side: int = PHOTOGRAPH


LIKE = {
    "imagenet1k": Like(1_281_167, 1000, 50_000),
    "imagenet21k": Like(14_197_122, 21_841),
    "laion1b": Like(10**9, 1000),
}


def parse_like(text: str) -> Like:
    """A name of `LIKE`, or numbers.

    >>> parse_like("imagenet1k").held_out, parse_like("50000,10,32")
    (50000, Like(rows=50000, classes=10, held_out=0, side=32))
    """
    if text in LIKE:
        return LIKE[text]
    if re.fullmatch(r"[0-9]{1,14},[0-9]{1,8}(,[0-9]{1,4})?", text, re.ASCII):
        rows, classes, *side = (int(number) for number in text.split(","))
        found = Like(rows, classes, side=side[0] if side else PHOTOGRAPH)
        if 1 <= rows <= MOST_ROWS and 2 <= classes <= MOST_CLASSES and 1 <= found.side <= MOST_SIDE:
            return found
    expected = f"one of {', '.join(LIKE)}, or ROWS,CLASSES or ROWS,CLASSES,SIDE with two or more classes"
    raise UsageError("`like`", expected, repr(text), advice(text, LIKE, "try 1000000,1000"))


def stand_in(like: Like, augment: str | None, rows: int) -> Data:
    """As many made-up images of the same size and classes, in memory; photographs are shown as for ImageNet."""
    images = open_source(f"synthetic:{rows},2,{like.side}", "train").resident
    view = augment or ("resized-crop:224" if like.side >= PHOTOGRAPH else "crop-flip")
    assert images is not None
    names = [str(number) for number in range(like.classes)]
    train, held_out = (ArraySource(split, images, [0] * rows, names, view, spec="like") for split in ("train", "eval"))
    return Data(train, held_out, open_view(view, train.size, rows))
