"""CIFAR-10 and CIFAR-100, read and perhaps fetched by torchvision."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from kdcache import lazy_torch as torch
from kdcache.checks import short
from kdcache.errors import SourceError
from kdcache.sources.arrays import ArraySource, Source

PATIENCE = 5  # seconds without an answer from the network


def data_folder() -> Path:
    """Where torchvision's data sets lie, each in a folder of its own."""
    return Path(os.environ.get("KDCACHE_DATA", "data"))


def cifar10(spec: str, argument: str, split: str) -> Source:
    return _cifar("CIFAR10", spec, split)


def cifar100(spec: str, argument: str, split: str) -> Source:
    return _cifar("CIFAR100", spec, split)


def _cifar(name: str, spec: str, split: str) -> Source:
    from torchvision import datasets  # seconds to import

    made = getattr(datasets, name)
    root = data_folder()
    folder = root / made.base_folder
    with _one_at_a_time(root, folder):
        missing = not folder.is_dir()
        try:
            with warnings.catch_warnings(), _tidy(root, folder, root / made.filename):
                warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)  # the files are of 2009
                data = made(root, train=split == "train", download=missing)
        except Exception as error:
            if not missing:
                remedy = f"remove {folder}: it is unpacked from {made.filename} or fetched again"
                raise SourceError(spec, f"whole files in {folder}", short(error, 100), remedy) from None
            found = f"neither ({short(error, 100)})"
            remedy = f"put {folder.name}/ or {made.filename} into {root}/, or name its folder in KDCACHE_DATA"
            raise SourceError(spec, f"{folder} or a download", found, remedy) from None
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ArraySource(split, images, data.targets, list(data.classes), "crop-flip", spec=spec)


@contextlib.contextmanager
def _one_at_a_time(root: Path, folder: Path) -> Iterator[None]:
    """Alone where the folder is to be fetched and unpacked; who would read it waits for that."""
    above = next(path for path in root.absolute().parents if path.is_dir())
    try:
        descriptor = os.open(above, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # of file systems without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH if folder.is_dir() else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _tidy(root: Path, *parts: Path) -> Iterator[None]:
    """A download that fails does so soon, and leaves none of these behind; what was there before stays."""
    new = [path for path in (*parts, root) if not path.exists()]
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    except BaseException:
        for path in new:
            remove = path.unlink if path.is_file() else path.rmdir if path == root else partial(shutil.rmtree, path)
            with contextlib.suppress(OSError):  # it was never made, or others have put something into the root
                remove()
        raise
    finally:
        socket.setdefaulttimeout(patience)
