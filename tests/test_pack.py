"""Packs: the pixels and the identity of the images, whole or not at all, and whatever is wrong with one is said."""

import errno
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import kdcache
from reference_views import encoded, picture
from source_cases import ENCODED, MADE

from kdcache import packing
from kdcache.batches import Loader
from kdcache.cache import open_cache
from kdcache.errors import DataChanged, KdcacheError, OtherRequest, SourceError
from kdcache.jobs import Data, facts_of_pack, make_pack, verify_pack
from kdcache.proof.verdicts import verify as verify_cache
from kdcache.sources import open_source
from kdcache.sources.pack_file import PRELUDE, head_of, read_pack
from kdcache.views import open_view, resize

SOURCES = ["digits", "synthetic:24,2,80", "small", "uniform", "mixed", "csv", "hf", "wds"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Three folders of JPEG and PNG files: of 24x24, of 80x80, and of several sizes."""
    root = tmp_path_factory.mktemp("images")
    sides = {"small": [(24, 24)], "uniform": [(80, 80)], "mixed": [(90, 70), (66, 120), (80, 80)]}
    for folder, sizes in sides.items():
        for i in range(14):
            part, size = "train" if i < 10 else "test", sizes[i % len(sizes)]
            path = root / folder / part / "ab"[i % 2] / f"{i}.{'png' if i % 5 == 0 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(*size, key=i), "PNG" if i % 5 == 0 else "JPEG"))
    return root


@pytest.fixture(scope="module")
def spec(root):
    made = {name: f"folder:{root / name}" for name in ("small", "uniform", "mixed")}
    for name in set(ENCODED) - {"folder"}:
        (root / name).mkdir()
        made[name] = MADE[name](root / name)
    return lambda name: made.get(name, name)


@pytest.fixture(scope="module")
def pack(root, spec) -> Path:
    """Of the folder of several sizes. Not to be changed."""
    return make_pack(spec("mixed"), root / "mixed.kdp", workers=2)


@pytest.fixture
def copied(pack, tmp_path) -> Path:
    path = tmp_path / "copy.kdp"
    path.write_bytes(pack.read_bytes())
    return path


def listed(images) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_pack_is_its_images(name, split, spec, tmp_path):
    images = open_source(spec(name), split)
    pack = open_source(f"pack:{make_pack(spec(name), tmp_path / 'a.kdp')}", split)
    rows = [3, 0, 3]
    assert listed(pack.read(rows)) == listed(images.read(rows))
    assert isinstance(pack.read([0, 1, 2]), torch.Tensor) == isinstance(images.read([0, 1, 2]), torch.Tensor)
    assert pack.labels.tolist() == images.labels.tolist()
    assert pack.digests(rows).tolist() == images.digests(rows).tolist()
    for what in ("classes", "names", "size", "mean", "std", "default_view", "default_student", "packages"):
        assert getattr(pack, what) == getattr(images, what), what
    assert (pack.resident is None) == (images.resident is None or max(images.size) > 64)
    same = {"spec": images.spec}
    assert pack.identity() | same == images.identity()
    if split == "train":
        assert pack.part(0.5).identity() | same == images.part(0.5).identity()
        assert listed(pack.part(0.5).read([1])) == listed(images.part(0.5).read([1]))


@pytest.mark.parametrize("name", ["digits", "small", "mixed"])
def test_caches_of_a_pack_and_of_its_images_agree(name, spec, dump, tmp_path):
    images = Data.open(spec(name), "resized-crop:8")
    packed = Data.open(f"pack:{make_pack(spec(name), tmp_path / 'a.kdp')}", "resized-crop:8")
    network = images.network("tiny-2", 0).eval()
    caches = [open_cache(dump(tmp_path / f"{i}.h5", data, network)) for i, data in enumerate((images, packed))]
    for cache, other in zip(caches, (packed, images), strict=True):
        opened = Data.of_cache(cache, other.train.spec)
        checks = list(verify_cache(cache, opened.train, opened.view, None, {}, held_out=opened.held_out))
        assert [check for check in checks if not check.ok] == []
    items = np.arange(len(images.train))
    assert torch.equal(*(cache.gather(items)["logits"] for cache in caches))


@pytest.mark.filterwarnings("ignore:.*nothing in it says which images are for evaluation")
def test_images_without_labels_have_the_classes_of_their_teacher(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.jpg").write_bytes(encoded(picture(70, 90, key=i)))
    images = open_source(f"folder:{tmp_path}")
    pack = open_source(f"pack:{make_pack(images.spec, tmp_path / 'a.kdp')}")
    assert set(pack.labels.tolist()) == {-1}
    for names in ([], ["a", "b"]):
        for source in (images, pack):
            source.name_classes(names)
        assert pack.identity() | {"spec": images.spec} == images.identity()


def test_workers_of_either_kind_read_the_same(pack):
    source = open_source(f"pack:{pack}")
    view = open_view("resized-crop:32", source.size)
    plan = [np.arange(5), np.arange(5, 10)]
    here = torch.cat([batch.images for batch in Loader(source, view, 0).run(plan)])
    assert torch.equal(torch.cat([batch.images for batch in Loader(source, view, 0, workers=2).run(plan)]), here)
    assert listed(pickle.loads(pickle.dumps(source)).read([7, 2])) == listed(source.read([7, 2]))


def test_rows_that_another_process_has_checked_are_read(root, spec):
    source = open_source(f"pack:{make_pack(spec('uniform'), root / 'uniform.kdp')}")
    source.pixels.seen[:] = True  # by a worker, as this process has not even opened the file
    assert listed(source.read([1])) == listed(open_source(spec("uniform")).read([1]))


def test_images_of_several_sizes_on_one_canvas_are_cropped_alike():
    """As on a GPU, which resizes them all at a time."""
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((40, 60), (51, 33), (44, 44))]
    seeds = torch.arange(3)
    sizes = resize.heights_and_widths(images)
    boxes, flip = resize.random_boxes(*sizes, seeds.numpy())
    alone = open_view("resized-crop:24", None).render(images, seeds)
    assert torch.equal(resize.resize_each(resize.on_canvas(images), boxes, flip, (24, 24)), alone)


def test_a_shorter_side_shrinks_and_never_enlarges(spec, tmp_path):
    small = open_source(f"pack:{make_pack(spec('mixed'), tmp_path / 'a.kdp', short=70)}")
    whole = open_source(spec("mixed"))
    sizes = [[tuple(image.shape[1:]) for image in source.read(range(10))] for source in (whole, small)]
    assert set(zip(*sizes, strict=True)) == {((90, 70), (90, 70)), ((66, 120), (66, 120)), ((80, 80), (70, 70))}
    assert small.fingerprint() != whole.fingerprint()  # so no cache of the one trains on the other
    assert small.default_view == "resized-crop:70"


def test_a_pack_of_version_1_is_read_and_made_to_the_byte(tmp_path):
    golden = Path(__file__).parent / "golden" / "v1.kdp"
    assert listed(open_source(f"pack:{golden}").read(range(12))) == listed(
        open_source("synthetic:12,2,6").read(range(12))
    )
    assert make_pack("synthetic:12,2,6", tmp_path / "a.kdp").read_bytes() == golden.read_bytes()


def interrupted(at: int):
    """A progress bar that is interrupted at that image which is packed."""

    def progress(items, total, desc, **_):
        for number, item in enumerate(items):
            yield item
            if desc.startswith("packing") and number == at:
                raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("at", [0, 7])
def test_what_was_interrupted_goes_on_to_the_same_bytes(at, pack, spec, tmp_path):
    path = tmp_path / "a.kdp"
    with pytest.raises(KeyboardInterrupt):
        make_pack(spec("mixed"), path, progress=interrupted(at))
    assert (path.exists(), facts_of_pack(f"{path}.part")["images_done"]) == (False, at + 1)
    with pytest.raises(SourceError, match=r"unfinished one, a.kdp.part.*run the same command again"):
        open_source(f"pack:{path}")
    assert make_pack(spec("mixed"), path, workers=3).read_bytes() == pack.read_bytes()
    assert os.listdir(tmp_path) == ["a.kdp"]
    assert make_pack(spec("mixed"), path) == path  # it is there already


@pytest.mark.parametrize("moment", ["word", pytest.param("part", marks=pytest.mark.slow)])
def test_what_was_killed_goes_on_to_the_same_bytes(moment, tmp_path):
    """At the moment when the file appears, and when the first rows are marked done."""
    data, path, part = "synthetic:1000,2,80", tmp_path / "a.kdp", tmp_path / "a.kdp.part"
    code = f"from kdcache import durable, jobs; durable.SYNC_SECONDS = 0; jobs.make_pack({data!r}, {str(path)!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if part.exists() and (moment == "part" or facts_of_pack(part)["images_done"]):
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not path.exists()
    other = make_pack(data, tmp_path / "b.kdp").read_bytes()
    assert make_pack(data, path).read_bytes() == other
    assert sorted(os.listdir(tmp_path)) == ["a.kdp", "b.kdp"]


def test_a_full_disk_is_reported_before_anything_is_decoded(spec, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(KdcacheError, match=r"room for the whole file.*No space left"):
        make_pack(spec("mixed"), tmp_path / "a.kdp")
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fails_on_the_way_keeps_what_was_written(spec, pack, tmp_path, monkeypatch):
    path, written = tmp_path / "a.kdp", []

    def write(descriptor, data, offset):
        written.append(offset)
        if len(written) == 4:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.pwrite(descriptor, data, offset)

    monkeypatch.setattr(packing, "write", write)
    with pytest.raises(KdcacheError, match=r"to write the file.*Input/output error.*what was written is kept"):
        make_pack(spec("mixed"), path, workers=1)
    monkeypatch.undo()
    assert make_pack(spec("mixed"), path).read_bytes() == pack.read_bytes()


def test_another_request_is_refused_by_name(spec, copied):
    before = copied.read_bytes()
    with pytest.raises(OtherRequest, match=r"short None, as in the file, found 32; give what it was begun with"):
        make_pack(spec("mixed"), copied, short=32)
    with pytest.raises(OtherRequest, match=r"splits.eval.*as in the file"):
        make_pack(spec("uniform"), copied)
    assert copied.read_bytes() == before


def test_two_at_once_are_refused(spec, tmp_path):
    path = tmp_path / "a.kdp"
    with pytest.raises(KeyboardInterrupt):
        make_pack(spec("mixed"), path, progress=interrupted(0))
    code = f"import fcntl; f = open('{path}.part', 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        with pytest.raises(KdcacheError, match="no other `kdcache pack` at work"):
            make_pack(spec("mixed"), path)
        other.communicate(b"\n")


def test_a_file_that_changed_since_it_was_begun_is_refused(root, spec, tmp_path):
    path, image = tmp_path / "a.kdp", root / "mixed/train/b/9.jpg"
    with pytest.raises(KeyboardInterrupt):
        make_pack(spec("mixed"), path, progress=interrupted(0))
    content = image.read_bytes()
    try:
        image.write_bytes((root / "mixed/train/b/3.jpg").read_bytes())
        with pytest.raises(DataChanged, match=r"9.jpg.*unchanged image"):
            make_pack(spec("mixed"), path)
    finally:
        image.write_bytes(content)


def test_a_finished_one_is_not_called_right_if_an_image_has_changed(root, spec, copied):
    image = root / "mixed/test/a/10.png"
    content = image.read_bytes()
    assert make_pack(spec("mixed"), copied) == copied
    try:
        image.write_bytes((root / "mixed/train/a/0.png").read_bytes())
        with pytest.raises(DataChanged, match="packed, found another evaluation image as row"):
            make_pack(spec("mixed"), copied)
    finally:
        image.write_bytes(content)


def test_an_unfinished_one_is_not_called_damaged(spec, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_pack(spec("mixed"), tmp_path / "a.kdp", progress=interrupted(0))
    with pytest.raises(SourceError, match="a finished pack"):
        list(verify_pack(tmp_path / "a.kdp.part"))


def test_a_pack_is_read_from_another_folder(pack, tmp_path, monkeypatch):
    monkeypatch.chdir(pack.parent)
    source = open_source(f"pack:{pack.name}")
    monkeypatch.chdir(tmp_path)
    assert source.read([0])[0].dtype == torch.uint8


def test_a_damaged_row_is_named_when_it_is_first_touched(copied):
    split = read_pack(copied).splits["train"]
    flip_bit(copied, int(split.starts()[4]) + 1000)
    source = open_source(f"pack:{copied}")
    source.read([3, 5])
    with pytest.raises(SourceError, match=r"train row 4: expected intact pixels, found a wrong CRC"):
        source.read([3, 4])
    with pytest.raises(SourceError, match="train row 4"):  # in a thread, too
        list(Loader(source, open_view("resized-crop:32", source.size), 0, workers=2).run([np.arange(10)]))
    said = kdcache(f"verify {copied} --json")
    assert said.code == 1
    wrong = [check for check in said.json()["checks"] if not check["ok"]]
    assert [(check["name"], check["detail"]) for check in wrong] == [
        ("train pixels", "1 of 10 rows damaged: the first is row 4")
    ]


def flip_bit(path: Path, place: int, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def test_every_flipped_bit_is_found(copied):
    size, generator = copied.stat().st_size, np.random.default_rng(0)
    pixels = read_pack(copied).splits["train"].places["pixels"][0]
    for place in [*range(32), *generator.integers(0, pixels, 100), *generator.integers(pixels, size, 40)]:
        bit = int(generator.integers(8))
        flip_bit(copied, int(place), bit)
        try:
            found = [check.name for check in verify_pack(copied, no_data=True) if not check.ok]
        except SourceError:
            found = ["header"]
        assert found, place
        flip_bit(copied, int(place), bit)


def put(*where, value):
    def edit(header):
        for key in where[:-1]:
            header = header[key]
        header[where[-1]] = value

    return edit


LIES = {
    "counts": put("splits", "train", "rows", value=-1),
    "counts that are none": put("splits", "eval", "rows", value=True),
    "where its header needs": put("splits", "train", "rows", value=1 << 60),
    "where its header needs [0-9]{15}": put("splits", "train", "pixels", value=1 << 61),
    "classes that are no texts": put("classes", value="ab"),
    "'NoneType'": put("libraries", value=None),
    "a std of no image": put("splits", "train", "std", value=[0.2, 0.2, 0]),
    "a mean of no ": put("splits", "train", "mean", value=[0.5, 0.5, math.nan]),
    "a mean of no image": put("splits", "train", "mean", value=[0.5, 0.5]),
    "train": put("splits", value={}),
    "a view or a network": put("splits", "train", "view", value="torchvision:my_views:make"),
    "a view or a network that": put("splits", "train", "view", value="albumentations:1"),
    "a view or a network that is": put("splits", "train", "student", value="my_nets:make"),
    "images of no name": put("source", value=None),
    "a short side that is no number": put("short", value=0),
}


@pytest.mark.parametrize("message", LIES)
def test_a_header_that_lies_is_refused(message, copied):
    data = copied.read_bytes()
    header = json.loads(data[PRELUDE.size :][: PRELUDE.unpack_from(data)[2]])
    LIES[message](header)
    text = json.dumps(header, sort_keys=True).encode()
    head = PRELUDE.pack(b"\x89KDPACK\n", 1, len(text), PRELUDE.size + len(text) + len(data), 0, 0)
    copied.write_bytes(head + text + data)
    with pytest.raises(SourceError, match=f"a whole pack, found .*{message}"):
        open_source(f"pack:{copied}")


@pytest.mark.parametrize("side", [0, 1 << 31, 1 << 20, 7])
def test_sizes_that_lie_are_refused(side, copied):
    found = read_pack(copied)
    tables = {name: dict(split.tables) for name, split in found.splits.items()}
    tables["train"]["sizes"] = tables["train"]["sizes"].copy()
    tables["train"]["sizes"][2] = side
    head = head_of(found.header, tables)
    copied.write_bytes(head + copied.read_bytes()[len(head) :])
    with pytest.raises(SourceError, match="a whole pack, found images of"):
        open_source(f"pack:{copied}")


def test_an_identity_of_nothing_is_refused(copied):
    found = read_pack(copied)
    found.header["splits"]["train"]["identified_by"] = "pixels"  # of images of several sizes
    head = head_of(found.header, {name: split.tables for name, split in found.splits.items()})
    copied.write_bytes(head + copied.read_bytes()[len(head) :])
    with pytest.raises(SourceError, match="a hash of nothing in it"):
        open_source(f"pack:{copied}")


def test_what_is_renamed_before_its_end_is_refused(spec, tmp_path):
    path = tmp_path / "a.kdp"
    with pytest.raises(KeyboardInterrupt):
        make_pack(spec("mixed"), path, progress=interrupted(2))
    os.rename(f"{path}.part", path)
    for use in (lambda: open_source(f"pack:{path}"), lambda: make_pack(spec("mixed"), path)):
        with pytest.raises(SourceError, match=r"a finished pack, found 11 images missing"):
            use()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a pack, found an empty file"),
        (b"\x89HDF\r\n", "a pack, found something else"),
        (b"\x89KDPACK\n", "a pack, found something else"),
        (PRELUDE.pack(b"\x89KDPACK\n", 2, 0, 32, 0, 0), "version 1, found version 2; read it with a newer kdcache"),
        (PRELUDE.pack(b"\x89KDPACK\n", 1, 1 << 31, 32, 0, 0), "a whole pack"),
        (PRELUDE.pack(b"\x89KDPACK\n", 1, 0, 99, 0, 0), "99 bytes, found 32"),
    ],
)
def test_what_is_no_pack_is_refused(content, message, tmp_path):
    (tmp_path / "a.kdp").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        open_source(f"pack:{tmp_path / 'a.kdp'}")


def test_a_bad_image_is_named_before_anything_is_written(root, spec, tmp_path):
    bad = root / "mixed/test/a/bad.jpg"
    bad.write_bytes(b"no image")
    try:
        with pytest.raises(SourceError, match=r"bad.jpg.*whole"):
            make_pack(spec("mixed"), tmp_path / "a.kdp")
    finally:
        bad.unlink()
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_plan_says_what_a_pack_takes_and_saves(spec, pack):
    plan = "plan --teacher tiny-2 --augment resized-crop:16 --views 3 --epochs 7 --json"
    found = kdcache(f"{plan} --data {spec('mixed')}").json()["pack"]
    held = read_pack(pack).splits["train"]
    assert found["bytes"] == pytest.approx(held.facts["pixels"], rel=0.2)
    assert found["saved_seconds"] == pytest.approx(10 * found["decode_seconds"])
    assert kdcache(f"{plan} --data pack:{pack}").json()["pack"] is None


def test_the_command_packs_inspects_and_verifies(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = kdcache(f"pack --data {spec('mixed')} -o a.kdp --workers 2")
    assert (said.code, said.out) == (
        0,
        "a.kdp: 10 training images and 4 evaluation images, from 66x70 to 90x120 pixels, 294.52 kB\n",
    )
    page = kdcache("inspect a.kdp").out
    assert "a.kdp: a pack, complete" in page
    assert "decoded by  opencv-python-headless" in page
    assert kdcache("inspect a.kdp --json").json()["images_done"] == 14
    assert kdcache("verify a.kdp").code == 0
    assert kdcache(f"verify a.kdp --data {spec('uniform')}").code == 1
    said = kdcache("verify a.kdp --teacher tiny-2")
    assert (said.code, "--teacher: expected a cache to verify, found a pack" in said.err) == (2, True)
    said = kdcache("pack --data digits -o a.h5")
    assert (said.code, "the name of a pack" in said.err) == (2, True)
