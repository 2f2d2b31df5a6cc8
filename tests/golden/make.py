"""Makes the golden files: caches with what is in them, pixels of every native view, and what the generator drew.

    cd $(mktemp -d) && PYTHONPATH=CHECKOUT python .../tests/golden/make.py v1     # writes v1.zip and v1.npz beside this

`v1.*` was made with the code of a5083a9 and is never made again: files of version 1 have to be read, and their pixels
rendered, as long as there is a kdcache. A new version of the format gets golden files of its own.
"""

import json
import shlex
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from kdcache.batches import training_plan
from kdcache.cache import Cache, open_cache
from kdcache.cli import main
from kdcache.seeds import ORDER, PARTNER, bijection, draw, keyed, permutation, sample_seeds, sample_views
from kdcache.views import enumerate_all, open_view, seeds_of
from kdcache.views.mixing import shares, steps

PLACE = Path(__file__).parent
IMAGES = "--data synthetic:48,10,16"
TEACHER = "--teacher tiny-3 --weights teacher.safetensors --device cpu"
DUMP = f"dump-logits {TEACHER} {IMAGES} --views 2"
PHOTOS = f"dump-logits {TEACHER} --workers 0 --data folder:photos"
TRAIN = f"train-teacher --model tiny-3 {IMAGES} --epochs 4 --batch 16 --device cpu --out trained"

CACHES = {  # what is asked for, in this order: some are made of others
    "f32": f"{DUMP} --codec f32",
    "f16": f"{DUMP} --codec f16",
    "int8": f"{DUMP} --codec int8",
    "logp8": f"{DUMP} --codec logp8",
    "topk": f"{DUMP} --codec topk:4",
    "bits": f"{DUMP} --method ab",
    "ft": f"{DUMP} --method ft",
    "co": f"{DUMP} --method co",
    "taps": f"{DUMP} --knowledge logits,emb,f2.post --seed 7",
    "later": f"{DUMP} --first-view 2 --fraction 0.5",
    "mixed": f"{DUMP} --augment crop-flip+mixup:0.4+cutmix",
    "all": f"dump-logits {TEACHER} --data synthetic:12,10,8 --views all",
    "digits": f"dump-logits {TEACHER} --data digits --fraction 0.03 --views 2",
    "photos": f"{PHOTOS} --augment resized-crop:16 --views 2",
    "library": f"{PHOTOS} --augment albumentations:pipeline.json --views 2",
    "pseudo": f"pseudo-teacher {IMAGES} --views 2 --accuracy 0.8 --spread 0.5",
    "imported": f"import-logits answers.npy {IMAGES} --anyway",
    "pruned": "prune taps.h5 --views 1 --knowledge logits,emb",
    "merged": "merge halves.shard1of2.h5 halves.shard2of2.h5",
}
SHARDS = [f"{DUMP} --shard {number}/2 -o halves.h5" for number in (1, 2)]
DUMPED = [name for name, line in CACHES.items() if line.startswith("dump-logits")]

SMALL, ODD, WIDE = (3, 16, 16), (3, 13, 9), (3, 20, 33)
PIXELS = {  # view and sizes of images; some renderings go eight pixels at a time, others cannot
    "none": ("none", [SMALL]),
    "crop": ("crop", [SMALL]),
    "crop, odd": ("crop-flip", [ODD]),
    "crop-flip": ("crop-flip", [SMALL]),
    "cutout": ("crop-flip-cutout", [(3, 32, 32)]),
    "cutout, odd": ("crop-flip-cutout", [ODD]),
    "enumeration": ("crop-flip", [SMALL]),
    "resized-crop": ("resized-crop:12", [SMALL]),
    "resized-crop, not square": ("resized-crop:16", [WIDE]),
    "resized-crop, of several sizes": ("resized-crop:8", [WIDE, (3, 50, 21), (3, 8, 90)]),
    "resized-crop, large": ("resized-crop:224", [(3, 256, 256)]),
    "centre": ("centre:12", [SMALL]),
    "centre, not square": ("centre:16", [WIDE]),
    "centre, of several sizes": ("centre:8", [WIDE, (3, 50, 21), (3, 8, 90)]),
    "centre, large": ("centre:224", [(3, 256, 256)]),
    "mixup": ("crop-flip+mixup", [SMALL]),
    "mixup, rarely": ("crop+mixup:0.2", [ODD]),
    "cutmix": ("crop-flip+cutmix", [SMALL]),
    "cutmix, evenly": ("none+cutmix:3", [ODD]),
    "both": ("crop-flip-cutout+mixup:0.4+cutmix:0.5", [SMALL]),
    "both, resized": ("resized-crop:16+mixup+cutmix", [WIDE, (3, 50, 21)]),
}
ROWS, KEYS = 24, (0, 7, 2**31 + 5, 2**63 - 1)


def kdcache(line: str) -> None:
    """Runs a command in the current folder."""
    main(shlex.split(line), prog_name="kdcache", standalone_mode=False)


def noise(number: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Pixels out of the generator, whose own answers are golden, too."""
    size = int(np.prod(shape))
    words = np.stack(keyed(number, np.arange(-(-size // 16), dtype=np.int64)), 1).astype("<u4")
    return torch.from_numpy(words.view(np.uint8).ravel()[:size].reshape(shape).copy())


def content(cache: Cache) -> dict[str, np.ndarray]:
    """Everything that a reader can ask of a cache."""
    rows = np.arange(len(cache))
    found = {"labels": cache.labels, "digests": cache.digests}
    found["seeds"] = np.stack([cache.seeds(view, rows) for view in range(cache.views)])
    for name in cache.names:
        found[f"records/{name}"] = np.stack([cache.records(name, view, rows) for view in range(cache.views)])
        found[f"knowledge/{name}"] = np.stack([cache.read(view, rows, [name])[name] for view in range(cache.views)])
        if cache.has_eval(name):
            found[f"eval/{name}"] = np.asarray(cache.read_eval(np.arange(cache.meta["eval"]["rows"]), [name])[name])
    found |= {f"constants/{name}": np.asarray(value) for name, value in cache.constants.items()}
    return found | {f"canaries/{name}": value for name, value in cache.canaries.items()}


def pixels(name: str) -> dict[str, np.ndarray]:
    """Seeds and CRCs of renderings: rows of noise, in two views, under two keys."""
    spec, sizes = PIXELS[name]
    images = [noise(row, sizes[row % len(sizes)]) for row in range(ROWS)]
    view = open_view(spec, sizes[0][1:] if len(sizes) == 1 else None, ROWS)
    if name == "enumeration":
        view = enumerate_all(view)
    rows, views = np.tile(np.arange(ROWS), 2), np.repeat([0, 5], ROWS)
    stacked = torch.stack(images) if len(sizes) == 1 else None

    def read(some):
        return stacked[torch.from_numpy(some)] if stacked is not None else [images[row] for row in some]

    seeds = np.stack([seeds_of(view, key, views, rows) for key in KEYS[:2]])
    shown = [view.show(read, rows, torch.from_numpy(some)) for some in seeds]
    crcs = np.array([[zlib.crc32(image.numpy().tobytes()) for image in some] for some in shown], dtype=np.uint32)
    evaluated = view.evaluation().show(read, np.arange(ROWS), torch.zeros(ROWS, dtype=torch.int64))
    again = np.array([zlib.crc32(image.numpy().tobytes()) for image in evaluated], dtype=np.uint32)
    return {"seeds": seeds, "crcs": crcs, "evaluation": again}


def drawn() -> dict[str, np.ndarray]:
    """What the generator answers, and all that is drawn of it: seeds, orders, shares."""
    rows, found = np.r_[np.arange(40), 2**31 - 1, 2**32 + 3, 2**40], {}
    for key in KEYS:
        found[f"seeds {key}"] = np.stack([sample_seeds(key, np.int64(view), rows) for view in (0, 1, 161, 2**31)])
        found[f"keyed {key}"] = np.stack([np.stack(keyed(key, rows, use=use)) for use in range(11)])
        found[f"draws {key}"] = np.stack([np.stack(draw(rows * 2654435761 + key % 97, 2, s)) for s in range(5)])
        found[f"views {key}"] = sample_views(key, 64, 1000, 10, 3)
        for n in (1, 2, 3, 10, 97, 162, 1437):
            every = np.arange(n)
            found[f"order {key} {n}"] = np.stack([permutation(n, key, epoch) for epoch in (0, 1, 30)])
            found[f"one-to-one {key} {n}"] = np.stack([bijection(every, n, key, t, PARTNER) for t in (0, 1, 9)])
        plans = [training_plan(97, 10, epoch, 16, key) for epoch in (1, 2, 11)]
        found[f"epochs {key}"] = np.stack([np.concatenate(plan[:-1]) for plan in plans])
    words = keyed(0, np.arange(500, dtype=np.int64), use=ORDER)[0]
    for a in (0.01, 0.1, 0.2, 0.4, 0.5, 1.0, 1.7, 3.0, 10.0):
        table = steps(a).astype("<i8")
        found[f"steps {a}"] = np.array([len(table), zlib.crc32(table.tobytes()), *table[:: len(table) // 64]])
        found[f"shares {a}"] = shares(a, words)
    return found


def begin() -> None:
    """What the commands need beside their words: a teacher, photographs, a pipeline, somebody's logits."""
    kdcache(TRAIN)
    Path("trained/last.safetensors").rename("teacher.safetensors")
    from PIL import Image

    for number in range(30):
        folder = Path("photos", "train" if number < 20 else "test", f"bird{number % 10}")
        folder.mkdir(parents=True, exist_ok=True)
        image = noise(number, (20 + number % 7, 24 + number % 5, 3))
        Image.fromarray(image.numpy()).save(folder / f"{number:02}.png")
    import albumentations as A

    A.save(A.Compose([A.RandomCrop(16, 16), A.HorizontalFlip(p=0.5)]), "pipeline.json", data_format="json")
    np.save("answers.npy", noise(99, (48, 10)).numpy().astype(np.float32) / 16 - 8)


def make(version: str) -> None:
    files = [PLACE / f"{version}.zip", PLACE / f"{version}.npz"]
    if any(file.exists() for file in files):
        raise SystemExit(f"{files[0]} or {files[1].name} is there: golden files are made once")
    if any(Path().iterdir()):
        raise SystemExit(f"{Path().absolute()} is not empty: run it in a new folder")
    begin()
    for line in (*SHARDS, *(f"{line} -o {name}.h5" for name, line in CACHES.items())):
        kdcache(line)
    found = {f"cache/{name}/{key}": v for name in CACHES for key, v in content(open_cache(f"{name}.h5")).items()}
    found |= {f"pixels/{name}/{key}": value for name in PIXELS for key, value in pixels(name).items()}
    found |= {f"drawn/{key}": value for key, value in drawn().items()}
    np.savez_compressed(files[1], **found)
    kept = [*Path().glob("*.*"), *Path("photos").rglob("*.png")]
    with zipfile.ZipFile(files[0], "w", zipfile.ZIP_LZMA) as archive:
        for path in sorted(path for path in kept if path.is_file()):
            archive.write(path)
    print(json.dumps({file.name: file.stat().st_size for file in files}))


if __name__ == "__main__":
    make(sys.argv[1])
