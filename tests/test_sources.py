"""Labelled images in an order that never changes, whatever they lie in; parts of them; and what is wrong with them."""

import hashlib
import os
import pickle
import socket
import tarfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.errors import SourceError, UsageError
from kdcache.sources import SOURCES, open_source
from kdcache.sources.arrays import channel_statistics, stratified

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


# digits


def test_digits_are_the_real_ones_split_once_and_for_all():
    from sklearn.datasets import load_digits

    train, held_out = (open_source("digits", split) for split in ("train", "eval"))
    assert (len(train), len(held_out)) == (1437, 360)
    assert train.resident.shape == (1437, 3, 32, 32)
    assert (train.fingerprint(), held_out.fingerprint()) == (
        "512ab1815b7ed3bfabcc5152a66f899b",
        "4d353bb7672f1baa955ae1e9f0640a54",
    )
    bundle = load_digits()
    theirs = sorted(
        (bytes(image.astype(np.uint8)), int(label)) for image, label in zip(bundle.images, bundle.target, strict=True)
    )
    ours = []
    for source in (train, held_out):
        small = (source.resident[:, 0, ::4, ::4].numpy().astype(int) * 16 + 254) // 255
        ours += [(bytes(image.astype(np.uint8)), int(label)) for image, label in zip(small, source.labels, strict=True)]
    assert sorted(ours) == theirs


def test_digits_have_a_fifth_of_every_class_held_out():
    counts = [np.bincount(open_source("digits", split).labels, minlength=10) for split in ("train", "eval")]
    share = counts[1] / (counts[0] + counts[1])
    assert np.abs(share - 360 / 1797).max() < 0.006


def test_digits_are_grey_squares():
    images = open_source("digits").resident
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert torch.equal(images, images[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert (int(images.min()), int(images.max())) == (0, 255)


# parts


def uneven_labels() -> np.ndarray:
    return np.repeat(np.arange(7), [1, 2, 3, 50, 101, 333, 17])[np.random.default_rng(0).permutation(507)]


@pytest.mark.parametrize("labels", [uneven_labels(), np.arange(1000) % 10, np.zeros(9, int), np.full(20, -1)])
def test_parts_are_nested_and_stratified(labels):
    before = np.array([], dtype=np.int64)
    for share in np.linspace(0.01, 1, 100):
        rows = stratified(labels, share)
        assert len(rows) == round(len(labels) * share)
        assert np.array_equal(rows, np.unique(rows))
        assert np.isin(before, rows).all()
        for label in np.unique(labels):
            taken, there = (labels[rows] == label).sum(), (labels == label).sum()
            assert abs(taken - there * share) < 2
        before = rows
    assert len(before) == len(labels)


def test_a_part_is_drawn_from_all_of_a_class():
    rows = stratified(np.zeros(10_000, int), 0.1)
    assert np.bincount(rows // 1000, minlength=10).min() > 60


def test_a_fraction_takes_training_rows_and_leaves_the_others():
    whole, half, quarter = (open_source("digits", fraction=f) for f in (1, 0.5, 0.25))
    assert (len(half), len(quarter)) == (718, 359)
    places = {image.numpy().tobytes(): i for i, image in enumerate(half.resident)}
    inside = [places[image.numpy().tobytes()] for image in quarter.resident]
    assert inside == sorted(inside)
    assert (half.mean, half.std) == (whole.mean, whole.std)
    assert half.identity()["fraction"] == 0.5
    assert half.fingerprint() != whole.fingerprint()
    assert len(open_source("digits", "eval", 0.25)) == 360
    assert open_source("digits", "eval", 0.25).fingerprint() == open_source("digits", "eval").fingerprint()
    assert np.array_equal(half.digests([3, 1]), half.check()[[3, 1]])


@pytest.mark.parametrize("fraction", [0, -1, 1.01, float("nan"), 0.0001])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(UsageError, match="`fraction`"):
        open_source("digits", fraction=fraction)


# what all of them promise


@pytest.mark.parametrize("spec", ["digits", "synthetic:300,7,12"])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_source_reads_rows_in_the_order_asked_for(spec, split):
    source = open_source(spec, split)
    rows = [5, 0, 5, len(source) - 1]
    for asked in (rows, np.array(rows), torch.tensor(rows), tuple(rows)):
        assert torch.equal(source.read(asked), source.resident[torch.tensor(rows)])
    assert source.read([]).shape == (0, *source.resident.shape[1:])
    assert torch.equal(source.read(range(3)), source.resident[:3])
    with pytest.raises(IndexError):
        source.read([len(source)])
    assert (source.spec, source.split, source.size) == (spec, split, tuple(source.resident.shape[2:]))
    assert source.labels.dtype == np.int64
    assert set(source.labels) == set(range(len(source.classes)))
    assert np.array_equal(source.digests(rows), source.check()[rows])
    assert source.fingerprint() == open_source(spec, split).fingerprint()


def test_statistics_are_those_of_the_pixels():
    images = open_source("synthetic:50,3,9").resident
    mean, std = channel_statistics(images)
    share = images.double() / 255
    assert mean == pytest.approx(share.mean((0, 2, 3)).tolist(), abs=2e-6)
    assert std == pytest.approx(share.std((0, 2, 3), correction=0).tolist(), abs=2e-6)
    assert channel_statistics(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))[1] == (1.0,) * 3


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "digit",
        "digits:",
        "digits:3",
        "cifar10:x",
        "folder",
        "folder:",
        "synthetic",
        "synthetic:",
        "synthetic:10",
        "none:1",
    ]
    + [
        f"synthetic:{a}"
        for a in ("10,2", "0,2,8", "10,1,8", "10,2,0", "-5,2,8", "1e3,2,8", "a,b,c", "1,2,3,4", "10,,8")
    ]
    + ["synthetic:1000000000,10,224", "synthetic:10,10,100000", "synthetic:5,99999999,99"],
)
def test_a_strange_source_is_refused_in_one_line(spec):
    with pytest.raises(UsageError, match="`data`: expected") as caught:
        open_source(spec)
    assert repr(spec) in str(caught.value)


def test_a_typo_gets_a_hint():
    with pytest.raises(UsageError, match="did you mean digits"):
        open_source("digts")


def test_synthetic_images_never_change_and_can_be_learnt():
    train, held_out = (open_source("synthetic:400,8,16", split) for split in ("train", "eval"))
    assert (len(train), len(held_out)) == (400, 80)
    assert train.fingerprint() == "5e03b828462e5fcf40bb8fa81a97a9b6"
    means = torch.stack([train.resident[train.labels == c].float().mean(0) for c in range(8)]).flatten(1)
    nearest = torch.cdist(held_out.resident.float().flatten(1), means).argmin(1)
    assert (nearest.numpy() == held_out.labels).mean() > 0.95


# CIFAR, which a test can neither fetch nor ship


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty data folder, and a network that nobody answers on; what was asked for is in the list."""
    asked = []

    def silence(request, *_, **__):
        asked.append((getattr(request, "full_url", request), socket.getdefaulttimeout()))
        raise urllib.error.URLError(TimeoutError("timed out"))

    monkeypatch.setattr(urllib.request, "urlopen", silence)
    monkeypatch.setenv("KDCACHE_DATA", str(tmp_path / "data"))
    return asked


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("cifar")])
def test_cifar_without_a_network_says_where_it_belongs(offline, tmp_path, name, capfd):
    with pytest.raises(SourceError) as caught:
        open_source(name)
    folder = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    assert f"{tmp_path}/data/{folder} or a download, found neither" in str(caught.value)
    assert f"put {folder}/ or cifar-10" in str(caught.value)
    assert "KDCACHE_DATA" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not (tmp_path / "data").exists()
    assert offline
    assert all(
        0 < patience <= 10 for _, patience in offline
    )  # a network that swallows everything would hold us for minutes
    assert socket.getdefaulttimeout() is None


def test_a_download_that_breaks_off_leaves_nothing_behind(offline, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "mine.txt").write_text("keep")

    def breaks_off(self):
        (data / "cifar-10-python.tar.gz").write_bytes(b"half")
        (data / "cifar-10-batches-py").mkdir()
        (data / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half")
        raise RuntimeError("File not found or corrupted.\nSecond line")

    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "download", breaks_off)
    with pytest.raises(SourceError) as caught:
        open_source("cifar10")
    assert "\n" not in str(caught.value)
    assert [path.name for path in data.iterdir()] == ["mine.txt"]


def test_damaged_cifar_is_refused_and_left_alone(offline, tmp_path):
    batch = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1"
    batch.parent.mkdir(parents=True)
    batch.write_bytes(b"not it")
    with pytest.raises(SourceError, match="not found or corrupted"):
        open_source("cifar10")
    assert batch.read_bytes() == b"not it"
    assert not offline  # and nobody was asked


def made_cifar(root: Path, images: np.ndarray, labels: list[int]) -> None:
    """Batches as the original ones, which Python 2 wrote: their arrays' alignment is 0 where False is meant."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    part = len(images) // 5
    for i, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        rows = slice(0, part) if name == "test_batch" else slice(i * part, i * part + part)
        content = {"data": images[rows].reshape(part, -1), "labels": labels[rows]}
        data = pickle.dumps(content, protocol=2).replace(
            b"X\x02\x00\x00\x00u1q\x08\x89\x88\x87", b"X\x02\x00\x00\x00u1q\x08K\x00K\x01\x87"
        )
        (folder / name).write_bytes(data)
    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))


def test_cifar_is_read_in_its_own_order(offline, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10, cifar

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, 50).tolist()
    made_cifar(tmp_path / "data", images, labels)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    train, held_out = (open_source("cifar10", split) for split in ("train", "eval"))
    assert np.array_equal(train.resident.numpy(), images)
    assert train.labels.tolist() == labels
    assert np.array_equal(held_out.resident.numpy(), images[:10])
    assert train.classes[0] == "plane"
    assert (train.default_view, train.size) == ("crop-flip", (32, 32))
    assert not offline


# the real thing, where it is at hand


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "cifar10" / "images.tar.xz").exists(), reason="no ../shared/data/cifar10 beside the repository"
)
def test_the_real_cifar_folder_opens_in_seconds(tmp_path):
    with tarfile.open(SHARED / "cifar10" / "images.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    started = time.perf_counter()
    train, held_out = (open_source(f"folder:{tmp_path}", split) for split in ("train", "eval"))
    seconds = time.perf_counter() - started
    assert np.array_equal(train.labels, np.arange(50_000) // 5000)
    assert np.array_equal(held_out.labels, np.arange(10_000) // 1000)
    assert (train.default_view, train.size) == ("crop-flip", (32, 32))
    assert train.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.002)
    path = next(Path(tmp_path, "train", "airplane").glob("*.jpg")).parent
    first = min(os.listdir(path))
    digest = hashlib.blake2b((path / first).read_bytes(), digest_size=8).digest()
    assert train.digests([0])[0] == int.from_bytes(digest, "little")
    assert seconds < 20, f"{seconds:.1f} s"  # 3 s on two idle cores


@pytest.mark.parametrize("name", ["folder:a\0b", "pack:a\ud83d"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(UsageError, match="a name that files can have"):
        open_source(name)
