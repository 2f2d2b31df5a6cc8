"""Renderings of images that replay exactly. `open_view("crop-flip", size=(32, 32))`."""

from __future__ import annotations

import numpy as np

from kdcache.errors import CacheError, KdcacheError, UsageError
from kdcache.seeds import ENUMERATION, PARTNER, bijection, sample_seeds
from kdcache.views.base import View, same_size, unknown_view
from kdcache.views.library import LIBRARIES, runs_user_code
from kdcache.views.mixing import MOST_ROWS, Mixed, Mixing, concentration, split
from kdcache.views.native import Centre, Crop, Enumerated, ResizedCrop, Untouched

PAD, CUTOUT = 4, 16
LARGEST = 4096  # side that can be asked for

VIEWS: dict[str, str] = {
    "none": "the image itself",
    "crop": "pad 4, random crop: 81 renderings; for images that a flip would falsify",
    "crop-flip": "pad 4, random crop, flip: 162 renderings; the standard of CIFAR",
    "crop-flip-cutout": "crop-flip, and a grey 16x16 square",
    "resized-crop": "resized-crop:SIZE, a box of 8 to 100 % of the image, resized, flipped; the standard of ImageNet",
    "centre": "centre:SIZE, the middle of the image, resized",
    "albumentations": "albumentations:FILE, a pipeline saved by albumentations as JSON or YAML",
    "torchvision": "torchvision:MODULE:FACTORY, the torchvision transforms (v2) that a function of yours returns",
    "augmentor": "augmentor:MODULE:FACTORY, the Augmentor.Pipeline that a function of yours returns",
}
MIXES: dict[str, str] = {
    "+mixup": "behind any of them, as crop-flip+mixup:A: blended with another row, shares from Beta(A, A) or alike",
    "+cutmix": "behind any of them, as crop-flip+cutmix:A: a box of another row; +mixup+cutmix: half of each",
}


def open_view(spec: str, size: tuple[int, int] | None, rows: int = 0) -> View:
    """The view that a user names, for images of one size (or None where they differ); of so many rows, to mix them."""
    plain, mixing = split(spec)
    view = open_plain(plain, size)
    if mixing is None:
        return view
    if not 0 < rows < MOST_ROWS:
        raise UsageError(f"view {spec}", f"rows to mix, fewer than {MOST_ROWS:,}", f"{rows:,}", "leave the mixing out")
    return Mixed(view.size, view, rows, mixing)


def open_plain(spec: str, size: tuple[int, int] | None) -> View:
    name, _, argument = spec.partition(":")
    if name in LIBRARIES:
        library = LIBRARIES[name]
        if argument.count(":") < library.argument.count(":") or not argument:
            raise UsageError("--augment", f"{name}:{library.argument}", repr(spec), library.remedy)
        return library.load(argument, size)
    if name in ("resized-crop", "centre"):
        side = int(argument) if argument.isdecimal() and len(argument) < 9 else size[0] if size and not argument else 0
        if not 1 <= side <= LARGEST:
            raise UsageError("--augment", f"{name}:SIZE", repr(spec), f"try {name}:224")
        return (ResizedCrop if name == "resized-crop" else Centre)((side, side))
    if name not in VIEWS or argument:
        raise unknown_view(spec, VIEWS)
    size = same_size(spec, size)
    if name == "none":
        return Untouched(size)
    return Crop(size, PAD, "flip" in name, CUTOUT if "cutout" in name else 0)


def from_json(place: object, header: dict, named: str | None = None) -> View:
    """The view that a cache names. Code of the user's is imported if the user has `named` it, as for the dump."""
    plain, mixing = split(named) if named else (None, None)
    try:
        view = rebuilt(place, header, plain)
    except KdcacheError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        found = f"{str(header)[:200]} ({type(error).__name__} {error})"
        raise CacheError(place, "a known view", found, "read it with a newer kdcache") from None
    if named and (not runs_user_code(view.plain.name) or mixing not in (None, view.mixes and view.mixing)):
        raise UsageError(place, f"its own view, {view.name}", f"--augment {named}", "leave it out")
    return view


def rebuilt(place: object, header: dict, named: str | None) -> View:
    size, name = whole(header["size"], least=1), header["view"]
    if "of" in header:
        return mixed_from_json(place, header, size, named)
    if name in LIBRARIES:
        require_named(place, header, named)
        source = header.get("source_size")
        return LIBRARIES[name].from_json(place, header, size, source and whole(source, least=1))
    if name.startswith("crop"):
        pad, cutout = whole((header["pad"], header["cutout"]), least=0)
        crop = Crop(size, pad, header["flip"] is True, cutout)
        view = Enumerated(size, crop) if header.get("enumerated") else crop
        if view.name != name or view.to_json() != header or (view is not crop and not crop.count):
            raise ValueError("parameters of another view")
        return view
    return {"none": Untouched, "resized-crop": ResizedCrop, "centre": Centre}[name](size)


def require_named(place: object, header: dict, named: str | None) -> None:
    """A header never picks code to import: whoever opens the file names it, as with a user's networks."""
    if not runs_user_code(header["view"]):
        return
    spec = f"{header['view']}:{header['factory']}"
    if named != spec:
        expected, found = f"--augment {spec}, for its view is code", f"--augment {named}" if named else "none"
        raise UsageError(place, expected, found, "name it if you trust that code")


def mixed_from_json(place: object, header: dict, size: tuple[int, int], named: str | None) -> Mixed:
    kinds = {kind: header[kind] for kind in ("mixup", "cutmix") if header[kind] is not None}
    try:
        right = all(type(a) in (int, float) and concentration(kind, str(a)) == a for kind, a in kinds.items())
    except UsageError:  # it is made for what users write
        right = False
    if not right:
        raise ValueError(f"mixing of {kinds}")
    rows, of = header["rows"], rebuilt(place, header["of"], named)
    view = Mixed(size, of, rows, Mixing(**kinds))
    if type(rows) is not int or not 0 < rows < MOST_ROWS or of.mixes or of.size != size or view.to_json() != header:
        raise ValueError("parameters of another view")
    return view


def whole(given, least: int) -> tuple[int, int]:
    """Two whole numbers, none of them absurd: headers may lie."""
    first, second = given
    if not all(type(n) is int and least <= n < 1 << 16 for n in (first, second)):
        raise ValueError(f"two numbers from {least} to 65535 are not {first!r} and {second!r}")
    return first, second


def enumerate_all(view: View) -> View:
    """The view whose seeds count through every rendering, for `--views all`."""
    if isinstance(view, Crop) and view.count:
        return Enumerated(view.size, view)
    if view.count:
        return view
    found = f"{view.name}, which has no end of them"
    raise UsageError("--views all", "a view with finitely many renderings", found, "give a number of views")


def counted(view: View, views: int | str) -> tuple[View, int]:
    """The view and the number of its renderings, of `--views N` or `--views all`."""
    if views == "all":
        view = enumerate_all(view)
        return view, view.count
    if int(views) < 1:
        raise UsageError("--views", "a number from 1, or all", str(views), "try 10")
    return view, int(views)


def seeds_of(view: View, key: int, views, rows) -> np.ndarray:
    """The seed of each sample-view as int64; in an enumeration, its number in a keyed order of the row's own."""
    views, rows = np.broadcast_arrays(np.asarray(views, dtype=np.int64), np.asarray(rows, dtype=np.int64))
    if isinstance(view, Enumerated):
        return bijection(views % view.count, view.count, key, rows, ENUMERATION)
    seeds = sample_seeds(key, views, rows)
    return view.seeds(seeds, bijection(rows, view.rows, key, views, PARTNER)) if view.mixes else seeds
