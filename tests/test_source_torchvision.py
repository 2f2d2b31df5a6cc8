"""Data sets of torchvision that lie on the disk: arrays, files, and what their splits are called."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from reference_views import encoded, made_images, picture
from source_cases import fashion, idx, unchecked

from kdcache.errors import KdcacheWarning, SourceError, UsageError
from kdcache.sources import open_source
from kdcache.sources.arrays import ArraySource
from kdcache.sources.folder import FolderSource


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    unchecked(monkeypatch)
    monkeypatch.setenv("KDCACHE_DATA", str(tmp_path))
    return tmp_path


def files(root: Path, *names: str) -> None:
    for row, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(picture(70, 72 + row, key=row)))


def test_grey_images_become_rgb(root):
    source = open_source(fashion(root))
    assert isinstance(source, ArraySource)
    assert source.resident.shape == (60, 3, 28, 28)
    grey = made_images(60, 28, 28, key=60)[:, 0]
    assert all((source.resident[:, channel] == grey).all() for channel in range(3))
    assert (source.classes[9], source.default_view, source.size) == ("Ankle boot", "resized-crop:28", (28, 28))
    assert len(open_source("torchvision:FashionMNIST", "eval")) == 20


def test_svhn(root, monkeypatch):
    scipy = pytest.importorskip("scipy.io")
    from torchvision.datasets import SVHN

    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    for split, rows in (("train", 30), ("test", 11)):
        images = made_images(rows, 32, 32, key=rows).numpy()
        labels = 1 + np.arange(rows) % 10  # where 10 is the digit 0
        content = {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None].astype(np.uint8)}
        scipy.savemat(root / f"{split}_32x32.mat", content)
    source, other = (open_source("torchvision:SVHN", split) for split in ("train", "eval"))
    assert np.array_equal(source.resident.numpy(), made_images(30, 32, 32, key=30).numpy())
    assert source.labels.tolist() == [(1 + row) % 10 for row in range(30)]
    assert (source.classes, source.default_view, len(other)) == ([str(n) for n in range(10)], "crop-flip", 11)


def test_stl10_has_rows_without_labels(root, monkeypatch):
    from torchvision.datasets import STL10

    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    folder = root / "stl10_binary"
    folder.mkdir()
    for split, rows in (("train", 4), ("test", 2), ("unlabeled", 3)):
        made_images(rows, 96, 96, key=rows).numpy().tofile(folder / f"{split}_X.bin")
        (folder / f"{split}_y.bin").write_bytes(bytes(1 + np.arange(rows, dtype=np.uint8)))
    (folder / "class_names.txt").write_text("plane\nbird\ncar\ncat\n")
    (folder / "fold_indices.txt").write_text("0 1")
    assert open_source("torchvision:STL10").labels.tolist() == [0, 1, 2, 3]
    assert open_source("torchvision:STL10", "eval").labels.tolist() == [0, 1]
    both = open_source("torchvision:STL10,split=train+unlabeled")
    assert (both.labels.tolist(), both.classes[1]) == ([0, 1, 2, 3, -1, -1, -1], "bird")


def test_files_of_a_set_stay_in_their_files(root):
    """Imagenette: a folder for each split, which it calls train and val."""
    base = "imagenette2-160"
    wnids = ["n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413"]
    wnids += ["n03445777", "n03888257"]
    files(root, *(f"{base}/{split}/{wnid}/0.JPEG" for split in ("train", "val") for wnid in wnids))
    source, other = (open_source("torchvision:Imagenette,size=160px", split) for split in ("train", "eval"))
    assert isinstance(source, FolderSource)
    assert source.names[0] == f"{base}/train/n01440764/0.JPEG"
    assert other.names[0] == f"{base}/val/n01440764/0.JPEG"
    assert (source.labels.tolist(), source.classes[0]) == ([*range(10)], "tench, Tinca tinca")
    source.check()


def test_a_set_without_splits_goes_by_the_rule(root):
    """EuroSAT."""
    files(root, *(f"eurosat/2750/{name}/{row:02}.jpg" for name in ("Forest", "River") for row in range(20)))
    train = open_source("torchvision:EuroSAT")
    with pytest.warns(KdcacheWarning, match="one in 10 is held out"):
        other = open_source("torchvision:EuroSAT", "eval")
    assert (len(train) + len(other), train.classes) == (40, ["Forest", "River"])
    assert not {*train.names} & {*other.names}
    assert all(
        source.classes[label] in name
        for source in (train, other)
        for name, label in zip(source.names, source.labels, strict=True)
    )


def test_options_reach_the_class(root):
    raw = root / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, rows in (("train", 26), ("test", 3)):
        for name, array in (
            ("images-idx3", made_images(rows, 28, 28)[:, 0].numpy()),
            ("labels-idx1", 1 + np.arange(rows)),
        ):
            (raw / f"emnist-letters-{split}-{name}-ubyte").write_bytes(idx(array))
            (raw / f"emnist-letters-{split}-{name}-ubyte.gz").write_bytes(gzip.compress(b""))
    source = open_source("torchvision:EMNIST,split=letters")
    assert [source.classes[label] for label in source.labels][:3] == ["a", "b", "c"]
    assert len(open_source("torchvision:EMNIST,split=letters", "eval")) == 3
    with pytest.raises(UsageError, match="expected EMNIST with options split"):
        open_source("torchvision:EMNIST")
    with pytest.raises(UsageError, match=r"EMNIST,split=nonsense': Unknown value 'nonsense'"):
        open_source("torchvision:EMNIST,split=nonsense")


@pytest.mark.parametrize("name", ["SVNH", "ImageFolder", "wrap_dataset_for_transforms_v2", "svhn,split=x"])
def test_a_name_that_is_none(name):
    with pytest.raises(UsageError, match="expected a data set of torchvision"):
        open_source(f"torchvision:{name}")


@pytest.mark.parametrize("name", ["SVHN", "FashionMNIST", "Food101", "GTSRB"])
def test_what_is_not_on_the_disk_says_where_it_belongs(root, name):
    with pytest.raises(SourceError, match=f"expected {name} in {root}, found .*KDCACHE_DATA") as caught:
        open_source(f"torchvision:{name}")
    assert "\n" not in str(caught.value)
    assert not [*root.iterdir()]


def test_what_is_no_classification_is_refused(root):
    files(root, "VOCdevkit/VOC2012/JPEGImages/a.jpg")
    for name in ("SegmentationClass/a.png", "ImageSets/Segmentation/train.txt"):
        (root / "VOCdevkit/VOC2012" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "VOCdevkit/VOC2012" / name).write_text("a\n")
    with pytest.raises(SourceError, match="expected files or arrays with one class each"):
        open_source("torchvision:VOCSegmentation")


def test_a_pickle_is_compared_with_its_hash_before_it_is_read(root, monkeypatch):
    """CIFAR's files are pickles, and torchvision knows their hashes."""
    monkeypatch.undo()
    monkeypatch.setenv("KDCACHE_DATA", str(root))
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Armed()))
    for spec in ("torchvision:CIFAR10", "cifar10"):
        with pytest.raises(SourceError, match="not found or corrupted"):
            open_source(spec)
    assert not Path(root, "armed").exists()


class Armed:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("armed"),))
