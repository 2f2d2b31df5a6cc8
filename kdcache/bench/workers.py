"""An epoch of photographs through worker processes, with knowledge attached and without, and as torchvision does it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from kdcache.batches import Loader, training_plan
from kdcache.bench.timing import alternate, rate, ratio
from kdcache.cache import Cache, open_cache
from kdcache.dump import Dump
from kdcache.jobs import Data
from kdcache.teachers import Answers, CacheTeacher, KnownTeacher, no_teacher
from kdcache.teachers.known import StoredLogits

FILES, SIDE, CLASSES, BATCH, WORKERS, ROUNDS = 1000, 256, 10, 64, 2, 9
VIEW = "resized-crop:224"


def bench_workers(progress) -> dict:
    """Images a second that reach the training process."""
    with tempfile.TemporaryDirectory() as folder:
        data = Data.open(f"folder:{made_photographs(Path(folder) / 'images', FILES, SIDE)}", VIEW)
        cache = known_answers(Path(folder) / "a.h5", data)
        loader = Loader(data.train, data.view, cache, workers=WORKERS)
        plan = training_plan(len(data.train), 1, 1, BATCH, 0)

        def epoch(teacher: Answers):
            for batch in loader.run(plan):
                teacher(batch)

        attached = CacheTeacher(cache, ["logits"])
        sides = {"images alone": lambda: epoch(no_teacher), "with knowledge": lambda: epoch(attached)}
        sides["images alone, again"] = sides["images alone"]
        others = torchvisions(Path(folder) / "images")
        sides["torchvision"] = lambda: [None for _ in others]
        times = alternate(sides, ROUNDS, progress, "workers")
    figures = [rate(times, side, side, FILES, "images/s") for side in ("images alone", "with knowledge")]
    figures.append(rate(times, "torchvision's ImageFolder and RandomResizedCrop", "torchvision", FILES, "images/s"))
    figures.append(ratio(times, "torchvision / alone, time", "torchvision", "images alone", "1.3 or more"))
    figures.append(ratio(times, "alone / with knowledge, time", "images alone", "with knowledge", "0.95 or more"))
    figures.append(ratio(times, "A / A", "images alone, again", "images alone"))
    what = f"epochs of {FILES} JPEGs of {SIDE}x{SIDE}, {VIEW}, {WORKERS} workers, batches of {BATCH}"
    return {"what": what, "figures": figures}


def torchvisions(images: Path) -> DataLoader:
    """The same photographs, view, batches and number of workers, as torchvision's reference does it."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    loaded = ImageFolder(str(images / "train"), v2.Compose(steps))
    return DataLoader(loaded, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, prefetch_factor=4)


def made_photographs(root: Path, files: int, side: int) -> Path:
    """So many files of smooth noise, about as hard to decode as photographs of that size."""
    generator = np.random.default_rng(0)
    for number, place in enumerate(names(root, files)):
        place.parent.mkdir(parents=True, exist_ok=True)
        rough = Image.fromarray(generator.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        rough.resize((side, side), Image.Resampling.BICUBIC).rotate(number % 7).save(place, quality=90)
    return root


def names(root: Path, files: int) -> Iterator[Path]:
    for number in range(files):
        yield root / "train" / f"{number % CLASSES}" / f"{number:05}.jpg"
    yield root / "test" / "0" / "0.jpg"


def known_answers(path: Path, data: Data) -> Cache:
    """A cache of those images without a network: it is only read here."""
    rows, classes = len(data.train), len(data.train.classes)
    logits = np.random.default_rng(0).normal(0, 4, (rows, classes)).astype(np.float32)
    described = {"kind": "bench", "model": "bench", "fingerprint": "", "shapes": {"logits": [classes]}}
    loader = Loader(data.train, data.view, 0)
    return open_cache(Dump(path, loader, None, 1, 0, KnownTeacher(StoredLogits(logits[None])), described, "st").run())
