"""Renderings of images that replay exactly. `open_view("crop-flip", size=(32, 32))`.

To add one: a class that is a `Plain`, in a file of its own, and a line in `VIEWS`.
"""

from __future__ import annotations

import numpy as np

from kdcache.checks import advice, short
from kdcache.errors import CacheError, KdcacheError, UsageError
from kdcache.limits import MOST_VIEWS
from kdcache.seeds import ENUMERATION, PARTNER, bijection, sample_seeds
from kdcache.views import augmented
from kdcache.views.albumentations import Albumentations
from kdcache.views.augmented import Augmented
from kdcache.views.augmentor import Augmentor
from kdcache.views.base import Plain, View
from kdcache.views.mixing import MIXES, MOST_ROWS, Mixed, Mixing, split
from kdcache.views.native import Centre, Crop, ResizedCrop, Untouched
from kdcache.views.policies import POLICIES, line_of
from kdcache.views.torchvision import Torchvision

__all__ = [
    "MIXES", "POLICIES", "VIEWS", "Mixed", "Mixing", "Plain", "View", "from_json", "lines", "open_view",
    "runs_user_code",
]  # fmt: skip

VIEWS: dict[str, tuple[type[Plain], dict]] = {
    "none": (Untouched, {}),
    "crop": (Crop, {}),
    "crop-flip": (Crop, {"flip": True}),
    "crop-flip-cutout": (Crop, {"flip": True, "cutout": 16}),
    "resized-crop": (ResizedCrop, {}),
    "centre": (Centre, {}),
    "albumentations": (Albumentations, {}),
    "torchvision": (Torchvision, {}),
    "augmentor": (Augmentor, {}),
}
"""name -> class, and what this name asks of it."""
EVERY_SECOND = (
    "policies behind it are of every second view alone: crop-flip+strong+randaugment, weak and strong by turns"
)


def open_view(spec: str, size: tuple[int, int] | None, rows: int = 0) -> View:
    """The view that a user names, for images of one size (or None where they differ); of so many rows, to mix them."""
    plain, mixing = split(spec)
    view = open_plain(plain, size)
    if mixing is None:
        return view
    if view.alternates:
        found, remedy = f"{view.name}, which is weak and strong by turns", "leave the mixing out, or +strong"
        raise UsageError(f"view {spec}", "a view whose images are mixed alike", found, remedy)
    if not 0 < rows < MOST_ROWS:
        raise UsageError(f"view {spec}", f"rows to mix, fewer than {MOST_ROWS:,}", f"{rows:,}", "leave the mixing out")
    return Mixed(view.size, view, rows, mixing)


def lines() -> dict[str, str]:
    """Of each view, and of what may follow one, a line of help."""
    policies = {f"+{name}": line_of(name) for name in POLICIES} | {f"+{augmented.STRONG}": EVERY_SECOND}
    return {name: kind.line(**options) for name, (kind, options) in VIEWS.items()} | policies | MIXES


def open_plain(spec: str, size: tuple[int, int] | None) -> Plain:
    geometry, steps, weak = augmented.split(spec)
    if steps:
        return Augmented.opened(open_plain(geometry, size), steps, weak)
    refuse_what_follows(spec)
    name, _, argument = spec.partition(":")
    if name not in VIEWS:
        hint = advice(name, VIEWS, "`kdcache list views` explains them")
        raise UsageError("`augment`", f"one of {', '.join(VIEWS)}", repr(spec), hint)
    kind, options = VIEWS[name]
    if argument and not kind.argument:
        raise UsageError("`augment`", f"{name}, which takes no argument", repr(spec), f"write {name}")
    return kind.parse(spec, argument, size, **options)


def refuse_what_follows(spec: str) -> None:
    """A plus behind a view of our own, and no policy behind the plus; names of files and functions may have one."""
    geometry, plus, last = spec.rpartition("+")
    kind, _ = VIEWS.get(geometry.partition(":")[0].partition("+")[0], (Plain, {}))
    if plus and kind.native:
        name = last.partition(":")[0]
        mixes = f"+{name}" in MIXES
        hint = "mixing comes last" if mixes else advice(name, POLICIES, "`kdcache list views` explains them")
        raise UsageError("`augment`", f"one of {', '.join(POLICIES)} behind a plus", repr(last), hint)


def runs_user_code(spec: str) -> bool:
    """Whether a view of this name, or of a whole specification, imports code that is not ours."""
    kind, _ = VIEWS.get(spec.partition(":")[0], (Plain, {}))
    return kind.runs_user_code


def from_json(place: object, header: dict, named: str | None = None) -> View:
    """The view that a cache names. Code of the user's is imported if the user has `named` it, as for the dump."""
    plain, mixing = split(named) if named else (None, None)
    try:
        view = rebuilt(place, header, plain)
    except KdcacheError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        found = f"{short(header, 200)} ({type(error).__name__} {error})"
        raise CacheError(place, "a known view", found, "read it with a newer kdcache") from None
    mixed_by = view.mixing if isinstance(view, Mixed) else None
    if named and (not view.plain.runs_user_code or mixing not in (None, mixed_by)):
        raise UsageError(place, f"its own view, {view.name}", f"`augment` {named}", "leave it out")
    return view


def rebuilt(place: object, header: dict, named: str | None) -> View:
    if "of" in header:
        return Mixed.from_json(header, single(place, header["of"], named))
    if "base" in header:
        return Augmented.of_base(place, header, single(place, header["base"], None))
    kind, _ = VIEWS[header["view"]]
    if kind.runs_user_code:
        require_named(place, header, named)
    return kind.from_json(place, header)


def single(place: object, header: dict, named: str | None) -> Plain:
    """A view of single images, which another one has inside."""
    view = rebuilt(place, header, named)
    if not isinstance(view, Plain):
        raise ValueError(f"{view.name} inside of another view")
    return view


def require_named(place: object, header: dict, named: str | None) -> None:
    """A header never picks code to import: whoever opens the file names it, as with a user's networks."""
    spec = f"{header['view']}:{header['factory']}"
    if named != spec:
        expected, found = f"`augment` {spec}, for its view is code", f"`augment` {named}" if named else "none"
        raise UsageError(place, expected, found, "name it with `augment` if you trust that code")


def enumerate_all(view: View) -> View:
    """The view whose seeds count through every rendering, for `views` all."""
    if view.count:
        return view.plain.every()
    found = f"{view.name}, which has no end of them"
    raise UsageError("`views` all", "a view with finitely many renderings", found, "give a number of views")


def counted(view: View, views: int | str) -> tuple[View, int]:
    """The view and the number of its renderings, for a number of `views` or all."""
    if views == "all":
        view = enumerate_all(view)
        assert view.count is not None
        return view, view.count
    if not 1 <= int(views) <= MOST_VIEWS:
        raise UsageError("`views`", f"a number from 1 to {MOST_VIEWS:,}, or all", str(views), "try 10")
    return view, int(views)


def seeds_of(view: View, key: int, views, rows) -> np.ndarray:
    """The seed of each sample-view as int64; in an enumeration, its number in a keyed order of the row's own."""
    views, rows = np.broadcast_arrays(np.asarray(views, dtype=np.int64), np.asarray(rows, dtype=np.int64))
    if view.enumerated and view.count is not None:
        return bijection(views % view.count, view.count, key, rows, ENUMERATION)
    seeds = sample_seeds(key, views, rows)
    if view.alternates:
        return seeds & ~1 | views & 1
    return view.seeds(seeds, bijection(rows, view.rows, key, views, PARTNER)) if isinstance(view, Mixed) else seeds
