"""For every kind of source, images of it made in a folder, and the name that they are opened by."""

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from reference_views import encoded, made_images, picture

from kdcache.jobs import make_pack

CLASSES = ["ape", "bee", "cat"]
TRAIN, EVAL = 24, 9  # images
ENCODED = ["folder", "csv", "hf", "wds"]


def one(row: int) -> bytes:
    """An encoded image; sizes and formats differ."""
    return encoded(picture(66 + row % 5, 70 + row % 3, key=row), ("JPEG", "PNG", "WEBP")[row % 3 if row % 9 else 0])


def ending(row: int) -> str:
    return ("jpg", "png", "webp")[row % 3 if row % 9 else 0]


def contents(spoilt: Sequence[int] = ()) -> dict[str, list[tuple[str, bytes, int]]]:
    """Name, bytes and class of the images of both splits; those of some training rows are cut off."""
    every = {"train": range(TRAIN), "test": range(TRAIN, TRAIN + EVAL)}
    return {
        split: [(f"{n:03}.{ending(n)}", one(n)[: 60 if n in spoilt else None], n % 3) for n in rows]
        for split, rows in every.items()
    }


def folder(root: Path, spoilt=()) -> str:
    for split, images in contents(spoilt).items():
        for name, data, label in images:
            path = root / split / CLASSES[label] / name.replace("webp", "png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return f"folder:{root}"


def csv(root: Path, spoilt=()) -> str:
    lines = ["Split,PATH,Label"]
    for split, images in contents(spoilt).items():
        (root / "images").mkdir(exist_ok=True)
        for name, data, label in images:
            (root / "images" / name).write_bytes(data)
            lines.append(f"{split},images/{name},{CLASSES[label]}")
    (root / "list.csv").write_text("\n".join(lines))
    return f"csv:{root}/list.csv"


def hf(root: Path, spoilt=()) -> str:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=CLASSES)})
    parts = {}
    for split, images in contents(spoilt).items():
        columns = {"photo": [{"bytes": data, "path": None} for _, data, _ in images], "kind": [k for *_, k in images]}
        parts[split] = datasets.Dataset.from_dict(columns, features)
    datasets.disable_progress_bars()
    datasets.DatasetDict(parts).save_to_disk(root / "saved")
    return f"hf:{root}/saved"


def wds(root: Path, spoilt=(), suffix: str = "cls") -> str:
    for split, images in contents(spoilt).items():
        for shard, part in enumerate((images[::2], images[1::2])):
            with tarfile.open(root / f"{split}-{shard}.tar", "w") as archive:
                for name, data, label in part:
                    text = {"cls": str(label), "txt": CLASSES[label], "json": f'{{"label": "{CLASSES[label]}"}}'}[
                        suffix
                    ]
                    for file, content in ((name, data), (f"{name.partition('.')[0]}.{suffix}", text.encode())):
                        member = tarfile.TarInfo(file)
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
    return f"wds:{root}/{{train,test}}-{{0..1}}.tar"


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def fashion(root: Path) -> str:
    """FashionMNIST's files; torchvision looks for them in KDCACHE_DATA."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, rows in (("train", 60), ("t10k", 20)):
        images = made_images(rows, 28, 28, key=rows)[:, 0].numpy()
        for name, array in ((f"{split}-images-idx3", images), (f"{split}-labels-idx1", np.arange(rows) % 10)):
            (raw / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
            (raw / f"{name}-ubyte").write_bytes(idx(array))
    return "torchvision:FashionMNIST"


def cifar(root: Path, name: str) -> str:
    """Files as CIFAR's, whose hashes nobody asks for."""
    rng = np.random.default_rng(0)
    fine = name == "cifar100"
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    batches = ["train", "test"] if fine else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for batch in batches:
        labels = {"fine_labels" if fine else "labels": rng.integers(0, 10, 12).tolist()}
        content = {"data": rng.integers(0, 256, (12, 3072), dtype=np.uint8), **labels}
        (folder / batch).write_bytes(pickle.dumps(content, protocol=2))
    meta, key = ("meta", "fine_label_names") if fine else ("batches.meta", "label_names")
    (folder / meta).write_bytes(pickle.dumps({key: [f"class {n}" for n in range(100 if fine else 10)]}))
    return name


def packed(root: Path) -> str:
    """A pack of such a folder, whose images are of several sizes."""
    (root / "images").mkdir(parents=True)
    return f"pack:{make_pack(folder(root / 'images'), root / 'pixels.kdp')}"


MADE: dict[str, Callable[[Path], str]] = {
    "digits": lambda root: "digits",
    "synthetic": lambda root: "synthetic:60,3,12",
    "cifar10": lambda root: cifar(root, "cifar10"),
    "cifar100": lambda root: cifar(root, "cifar100"),
    "torchvision": fashion,
    "folder": folder,
    "csv": csv,
    "hf": hf,
    "wds": wds,
    "pack": packed,
}


def unchecked(patch: pytest.MonkeyPatch) -> None:
    """torchvision takes files of any content."""
    from torchvision.datasets import CIFAR10, cifar, mnist

    patch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    patch.setattr(cifar, "check_integrity", lambda *_: True)
    patch.setattr(mnist, "check_integrity", lambda path, *_: Path(path).exists())
