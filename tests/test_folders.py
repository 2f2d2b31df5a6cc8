"""Folders of JPEG and PNG files: the order and the pixels of everybody else, and a name for whatever is wrong."""

import hashlib
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference_views import encoded, picture

from kdcache.batches import Loader
from kdcache.errors import DataChanged, SourceError, UsageError
from kdcache.sources import folder, open_source
from kdcache.sources.arrays import ArraySource
from kdcache.sources.folder import FolderSource, listing
from kdcache.views import open_view


def place(root: Path, name: str, content: bytes | Image.Image) -> Path:
    """A file below the root, its folders made."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if name.lower().endswith("png") else "JPEG"
    path.write_bytes(content if isinstance(content, bytes) else encoded(content, kind))
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes of four and three images for training, one image each for evaluation."""
    for i, name in enumerate(
        ["cat/2.jpg", "cat/10.png", "cat/a.JPG", "cat/sub/b.jpeg", "dog/1.jpg", "dog/x-y.png", "dog/x/y.jpg"]
    ):
        place(tmp_path, f"train/{name}", picture(key=i))
    place(tmp_path, "test/cat/1.jpg", picture(key=20))
    place(tmp_path, "test/dog/1.jpg", picture(key=21))
    return tmp_path


def rows_of(source) -> list[np.ndarray]:
    return [image.numpy() for image in source.read(range(len(source)))]


def test_the_order_is_that_of_torchvision(root):
    from torchvision.datasets import ImageFolder

    for name in (
        "zebra/0.jpg",
        "Ant/0.jpg",
        "ant/0.jpg",
        "cat/sub-2/b.jpg",
        "cat/sub/c/d.jpg",
        "cat/B.jpg",
        "cat/c.webp",
        "cat/0010.jpg",
    ):
        place(root, f"train/{name}", picture())
    theirs = ImageFolder(root / "train")
    names, labels, classes = listing(root, "train")
    assert [str(root / name) for name in names] == [path for path, _ in theirs.samples]
    assert (labels, classes) == (theirs.targets, theirs.classes)


@pytest.mark.parametrize(
    ("train", "test"), [("train", "valid"), ("training", "testing"), ("Train", "Test"), ("TRAIN", "dev")]
)
def test_parts_have_the_names_that_other_sources_may_give_them(root, train, test):
    expected = [[name.partition("/")[2] for name in listing(root, split)[0]] for split in ("train", "eval")]
    (root / "train").rename(root / train)
    (root / "test").rename(root / test)
    for split, own, names in zip(("train", "eval"), (train, test), expected, strict=True):
        assert listing(root, split)[0] == [f"{own}/{name}" for name in names]


def test_a_name_of_one_part_alone_may_be_that_of_a_class(tmp_path):
    for name in ("dev", "ops"):
        for i in range(40):
            place(tmp_path, f"{name}/{i}.png", picture())
    assert listing(tmp_path, "train")[2] == ["dev", "ops"]


def test_test_images_without_classes_give_way_to_those_that_have_some(root):
    (root / "test").rename(root / "val")
    place(root, "test/1.jpg", picture())
    assert [name.partition("/")[0] for name in listing(root, "eval")[0]] == ["val", "val"]


def test_small_images_in_memory_are_those_in_the_files(root):
    source = open_source(f"folder:{root}")
    assert isinstance(source, ArraySource)
    assert (source.labels.tolist(), source.classes) == ([0, 0, 0, 0, 1, 1, 1], ["cat", "dog"])
    alone = FolderSource(root, "train", *listing(root, "train"))
    assert torch.equal(alone.read(range(7)), source.resident)
    for row, name in enumerate(alone.names):
        with Image.open(root / name) as image:
            assert np.array_equal(np.asarray(image.convert("RGB")).transpose(2, 0, 1), source.resident[row].numpy())
    every = [
        int.from_bytes(hashlib.blake2b((root / n).read_bytes(), digest_size=8).digest(), "little") for n in alone.names
    ]
    for found in (source.digests(range(7)), source.check(), alone.digests(range(7)), alone.check()):
        assert found.tolist() == every
    assert torch.equal(alone.read([3, 1, 3]), source.read([3, 1, 3]))


def test_opening_small_images_is_counted(root):
    bars = []

    def bar(items, **told):
        bars.append(told)
        return items

    for split in ("train", "eval"):
        rows = len(open_source(f"folder:{root}", split, progress=bar))
        assert bars.pop() == {"total": rows, "desc": f"reading {split} images", "unit": "images"}
    assert not bars


@pytest.mark.parametrize("work", [lambda source, bar: [*source.hashes(bar)], lambda source, bar: source.check(bar)])
def test_interrupted_no_thread_reads_on(mixed, work):
    source, threads = open_source(f"folder:{mixed}"), threading.active_count()

    def bar(items, **_):
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(source, bar)
    assert threading.active_count() == threads


def test_images_of_32_flip_like_photographs(tmp_path):
    for name in ("a", "b"):
        place(tmp_path, f"train/{name}/0.png", picture(32, 32))
        place(tmp_path, f"val/{name}/0.png", picture(32, 32))
    train, held_out = (open_source(f"folder:{tmp_path}", split) for split in ("train", "eval"))
    assert (train.default_view, train.size, len(held_out)) == ("crop-flip", (32, 32), 2)


def test_a_folder_may_be_moved_but_not_changed(root, tmp_path_factory):
    before = open_source(f"folder:{root}").fingerprint()
    elsewhere = tmp_path_factory.mktemp("moved") / "there"
    shutil.copytree(root, elsewhere)
    assert open_source(f"folder:{elsewhere}").fingerprint() == before
    place(elsewhere, "train/cat/2.jpg", picture(key=99))
    assert open_source(f"folder:{elsewhere}").fingerprint() != before


def test_hidden_files_and_folders_are_left_out(root):
    before = listing(root, "train")
    for name in (
        "cat/._2.jpg",
        "cat/.cache/1.jpg",
        ".ipynb_checkpoints/1.jpg",
        "cat/Thumbs.db",
        "cat/note.txt",
        "readme.jpg",
    ):
        place(root, f"train/{name}", b"rubbish")
    place(root, "test/.hidden/1.jpg", b"rubbish")
    assert listing(root, "train") == before
    assert len(open_source(f"folder:{root}", "eval")) == 2


def test_linked_classes_and_strange_names_are_read(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    place(other, "0.jpg", picture(key=3))
    os.symlink(other, root / "train" / "elk")
    place(root, "train/elk/näme with spaces.jpg", picture(key=4))
    (root / "train" / "cat" / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(encoded(picture(key=5)))
    source = open_source(f"folder:{root}")
    assert (source.classes, len(source)) == (["cat", "dog", "elk"], 10)
    assert len(source.fingerprint()) == 32


# what can be wrong with a folder


def test_the_first_unreadable_image_stops_a_folder_by_name(root):
    path = place(root, "train/dog/1.jpg", b"")
    with pytest.raises(SourceError, match=f"{path}: expected a whole JPEG, PNG or WebP image, found no image"):
        open_source(f"folder:{root}")
    for row in range(200):
        place(root, f"train/cat/big{row:03}.png", picture(70, 80))
    path.write_bytes(encoded(picture(70, 80)))
    bad = place(root, "train/cat/big190.png", encoded(picture(70, 80), "PNG")[:-40])
    with pytest.raises(SourceError, match=str(bad)):
        open_source(f"folder:{root}").check()


def test_a_link_to_nowhere_is_named(root):
    os.symlink(root / "gone.jpg", root / "train" / "dog" / "0.jpg")
    with pytest.raises(SourceError, match=r"dog/0\.jpg: expected a readable image, found No such file"):
        open_source(f"folder:{root}")


def test_links_that_lead_back_are_followed_once(root):
    before = listing_of(root)
    for name in ("a", "b", "c", "d", "e", "f"):
        os.symlink(".", root / "train" / "cat" / name)
    os.symlink("..", root / "train" / "cat" / "sub" / "up")
    assert listing_of(root) == before


def test_of_two_links_to_a_folder_one_is_read(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    place(other, "1.jpg", picture())
    for name in ("zoo", "yard"):
        os.symlink(other, root / "train" / "dog" / name)
    assert "train/dog/yard/1.jpg" in listing_of(root)
    assert "train/dog/zoo/1.jpg" not in listing_of(root)


def listing_of(root):
    return open_source(f"folder:{root}").names


def remove(*names):
    return lambda root: [shutil.rmtree(root / name) for name in names]


BROKEN = {
    "no folder": (remove("train", "test"), "train", r"expected a folder train/ with one folder per class"),
    "no train": (remove("train"), "eval", r"expected a folder train/"),
    "no test": (remove("test"), "eval", r"expected a folder test/ or val/ with one folder per class, found none"),
    "one class": (remove("train/dog"), "train", r"expected two or more class folders, found 1"),
    "unknown class": (
        lambda root: place(root, "test/elk/1.jpg", picture()),
        "eval",
        r"found class 'elk', unknown in train/",
    ),
    "empty class": (
        lambda root: (root / "train" / "elk").mkdir(),
        "train",
        r"train/elk: expected JPEG, PNG or WebP files, found none",
    ),
    "empty test": (remove("test/cat", "test/dog"), "eval", r"test: expected JPEG, PNG or WebP files, found none"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused(root, case):
    change, split, finding = BROKEN[case]
    change(root)
    with pytest.raises(SourceError, match=finding):
        open_source(f"folder:{root}", split)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(SourceError, match="found no such folder"):
        open_source(f"folder:{tmp_path / 'nowhere'}")


def test_a_class_without_evaluation_images_is_allowed(root):
    shutil.rmtree(root / "test" / "cat")
    held_out = open_source(f"folder:{root}", "eval")
    assert (held_out.classes, held_out.labels.tolist()) == (["cat", "dog"], [1])


# sizes


@pytest.fixture
def mixed(root) -> Path:
    place(root, "train/cat/2.jpg", picture(50, 70))
    return root


def test_images_of_several_sizes_need_a_view_that_resizes(mixed):
    source = open_source(f"folder:{mixed}")
    assert isinstance(source, FolderSource)
    assert (source.size, source.default_view) == (None, "resized-crop:224")
    with pytest.raises(UsageError, match="view crop-flip: expected images of one size, found images of several sizes"):
        open_view("crop-flip", source.size)
    assert isinstance(source.read(range(7)), list)
    loader = Loader(source, open_view("resized-crop:24", source.size), 0)
    whole = loader.images(np.arange(7))
    assert whole.shape == (7, 3, 24, 24)
    assert torch.equal(torch.cat([loader.images(np.array([i])) for i in range(7)]), whole)


def test_large_images_of_one_size_stay_in_their_files_and_can_be_cropped(tmp_path):
    for i in range(4):
        place(tmp_path, f"train/{'ab'[i % 2]}/{i}.png", picture(70, 90, key=i))
    source = open_source(f"folder:{tmp_path}")
    assert (source.resident, source.size, source.default_view) == (None, (70, 90), "resized-crop:70")
    assert Loader(source, open_view("crop-flip", source.size), 0).images(np.arange(4)).shape == (4, 3, 70, 90)
    place(tmp_path, "train/a/0.png", picture(90, 70))
    with pytest.raises(UsageError, match="view crop-flip: expected an image of 70 x 90, found an image of 90 x 70"):
        Loader(source, open_view("crop-flip", source.size), 0).images(np.arange(4))


def test_a_part_of_a_folder_reads_its_own_files(mixed):
    whole, half = open_source(f"folder:{mixed}"), open_source(f"folder:{mixed}", fraction=0.6)
    rows = [whole.names.index(name) for name in half.names]
    assert len(half) == 4
    assert all(torch.equal(half.read([i])[0], whole.read([row])[0]) for i, row in enumerate(rows))
    assert half.labels.tolist() == whole.labels[rows].tolist()


# changes after the dump


def test_a_changed_file_is_named_when_it_is_first_read(mixed):
    source = open_source(f"folder:{mixed}")
    source.expect(source.check())
    source.read(range(7))
    changed = place(mixed, "train/dog/1.jpg", picture(key=50))
    again = open_source(f"folder:{mixed}")
    again.expect(np.append(source.digests([0, 1, 2, 3]), np.uint64([1, 2, 3])))
    again.read([0, 1, 2, 3])
    with pytest.raises(
        DataChanged, match=f"{changed}: expected an unchanged image, found another file than the teacher saw as row 4"
    ):
        again.read([0, 4])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_changed_file_is_named_from_workers_too(mixed, workers):
    source = open_source(f"folder:{mixed}")
    source.expect(source.check() + np.uint64(1))
    loader = Loader(source, open_view("resized-crop:8", None), 0, workers=workers)
    with pytest.raises(DataChanged, match=r"\A.*cat/10\.png: expected an unchanged image.*\Z"):  # in one line
        list(loader.run([np.arange(3)]))


def test_a_visible_link_into_a_hidden_folder_is_followed(tmp_path):
    place(tmp_path, ".versions/3/a.png", picture())
    place(tmp_path, "more/b.png", picture())
    (tmp_path / "current").symlink_to(tmp_path / ".versions" / "3")
    assert list(folder.images_below(tmp_path)) == ["current/a.png", "more/b.png"]


def test_train_alone_in_capitals_lacks_its_other_part(tmp_path):
    for name in ("robin", "wren"):
        place(tmp_path, f"Train/{name}/0.png", picture())
    with pytest.raises(SourceError, match="expected a folder test/ or val/"):
        listing(tmp_path, "eval")
