"""A cache where nobody has a data set: a rendering needs a row, a view and bytes; and streams of other libraries."""

import io
import pickle
import runpy
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_docs import ROOT

import kdcache
from kdcache.api import CachedDataset, CachedStream
from kdcache.errors import DataChanged, KdcacheWarning, SourceError, UsageError
from kdcache.jobs import Data
from kdcache.proof import canaries

CODE = """
import torchvision.transforms.v2 as t

def make():
    return t.Compose([t.RandomResizedCrop(16), t.ColorJitter(0.4)])
"""
CODED = "torchvision:my_stream_view:make"


def dumped(dump, pictures, folder, augment):
    opened = Data.open(f"folder:{pictures}", augment)
    return dump(folder / "logits.h5", opened, opened.network("tiny-3", 1).eval())


@pytest.fixture(scope="module")
def stream_file(pictures, dump, tmp_path_factory):
    return dumped(dump, pictures, tmp_path_factory.mktemp("streams"), "resized-crop:16")


@pytest.fixture
def photos(stream_file, in_tmp):
    """The pictures and what was said of them; the current folder has the cache, as programs name it."""
    shutil.copy(stream_file, "logits.h5")
    return CachedDataset("logits.h5")


def bytes_of(data: CachedDataset) -> list[bytes]:
    return [data.source.encoded(row) for row in range(len(data.source))]


def rendered_alike(data: CachedDataset, **named) -> None:
    """In threads and in another process, one by one, as the data set shows them."""
    files, cache = bytes_of(data), kdcache.open_cache(data.cache.path)
    items = np.random.default_rng(0).permutation(len(data))[:60].tolist()

    def shown(item: int) -> torch.Tensor:
        view, row = divmod(item, len(cache))
        return cache.render(row, view, files[row], **named)

    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(shown, items))
    assert all(torch.equal(image, data[item][0]) for image, item in zip(images, items, strict=True))
    assert torch.equal(pickle.loads(pickle.dumps(cache)).render(3, 1, files[3], **named), data.view(1)[3][0])


def test_a_rendering_is_what_the_data_set_shows(photos):
    rendered_alike(photos)


@pytest.mark.slow
def test_the_users_code_renders_the_same_for_those_who_name_it(pictures, dump, in_tmp, monkeypatch):
    (in_tmp / "my_stream_view.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(in_tmp))
    data = CachedDataset(dumped(dump, pictures, in_tmp, CODED), augment=CODED)
    rendered_alike(data, augment=CODED)
    with pytest.raises(UsageError, match="name it with `augment`"):
        kdcache.open_cache("logits.h5").render(0, 0, bytes_of(data)[0])


def test_the_bytes_of_another_image_are_refused(photos):
    files, cache = bytes_of(photos), kdcache.open_cache("logits.h5")
    with pytest.raises(DataChanged, match=r"logits.h5, row 5: expected the bytes of its image, found those of another"):
        cache.render(5, 0, files[6])
    with pytest.raises(DataChanged):
        cache.render(5, 0, files[5] + b"\0")
    for row in (-1, len(cache)):
        with pytest.raises(UsageError, match=r"rows from 0 to 59"):
            cache.render(row, 0, files[0])


def test_what_is_no_image_is_an_error_with_its_row(photos, monkeypatch):
    files, cache = bytes_of(photos), kdcache.open_cache("logits.h5")
    monkeypatch.setattr("kdcache.cache.render.digest", lambda data: kdcache.digest(files[5]))
    with pytest.raises(SourceError, match="row 5"):
        cache.render(5, 0, files[5][:100])


def test_a_view_of_two_images_is_refused(data, dump, tmp_path):
    mixed = Data.open("synthetic:64,10,8", "crop+mixup")
    cache = kdcache.open_cache(dump(tmp_path / "mixed.h5", mixed))
    with pytest.raises(UsageError, match="a view of single images"):
        cache.render(0, 0, mixed.train.read([0])[0])


def test_images_without_files_are_shown_from_their_pixels(cache, data):
    for pixels in (data.train.read([7])[0], data.train.read([7])[0].numpy()):
        assert torch.equal(cache.render(7, 2, pixels), CachedDataset(cache).view(2)[7][0])


def test_a_row_shows_every_view_once_and_numbers_are_as_arrays(cache):
    rows, visits = np.arange(len(cache)), np.arange(2 * cache.views)
    found = cache.view_at(rows[:, None], visits, seed=5)
    assert (np.sort(found.reshape(len(rows), 2, -1), 2) == np.arange(cache.views)).all()
    assert [cache.view_at(row, 4, seed=5) for row in range(20)] == found[:20, 4].tolist()
    assert len(np.unique(found[:, 0])) == cache.views
    assert (cache.view_at(rows, 0, seed=6) != found[:, 0]).any()


def in_shards(data: CachedDataset) -> str:
    """The images in tar archives, under other names and in another order."""
    order, files = np.random.default_rng(1).permutation(len(data.source)), bytes_of(data)
    Path("shards").mkdir()
    for shard, rows in enumerate(np.array_split(order, 4)):
        with tarfile.open(f"shards/train-{shard}.tar", "w") as archive:
            for number, row in enumerate(rows):
                for name, content in (("png", files[row]), ("cls", str(data.source.labels[row]).encode())):
                    member = tarfile.TarInfo(f"{number:05}.{name}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return "shards/train-{0..3}.tar"


def in_parquet(data: CachedDataset) -> str:
    import datasets

    order, files = np.random.default_rng(1).permutation(len(data.source)), bytes_of(data)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for part, rows in enumerate(np.array_split(order, 3)):
        images = [{"bytes": files[row], "path": None} for row in rows]
        columns = {"image": images, "label": data.source.labels[rows].tolist()}
        datasets.Dataset.from_dict(columns, features).to_parquet(f"parquet/{part}.parquet")
    return "parquet/*.parquet"


SLOW = pytest.param("datasets", in_parquet, marks=pytest.mark.slow)  # to import


@pytest.mark.parametrize(("name", "written"), [("webdataset", in_shards), SLOW])
def test_a_stream_shows_what_the_data_set_shows(name, written, photos):
    """The program of the page trains on it, and then gives each row once in a pass, with its pixels and answers."""
    pytest.importorskip(name)
    where, orders, n = written(photos), [], len(photos.source)
    file = str(ROOT / "tests" / f"stream_{name}.py")  # a Path is too much for what looks up a frame's source
    program = SimpleNamespace(**runpy.run_path(file, run_name="__main__"))
    for number in range(2):
        seen = []
        for images, labels, items in program.batches(where, number):
            answers = program.cache.gather(items)["logits"]
            for image, label, answer, item in zip(images, labels, answers, items.tolist(), strict=True):
                expected = photos[item]
                assert torch.equal(image, expected[0])
                assert label == expected[1]
                assert torch.equal(answer, expected[2])
                assert item // n == photos.cache.view_at(item % n, number)
                seen.append(item % n)
        assert sorted(seen) == list(range(n))
        orders.append(seen)
    assert orders[0] != orders[1] != list(range(n))


@pytest.mark.parametrize("name", ["webdataset", "datasets"])
def test_the_page_shows_these_programs(name):
    program = (ROOT / "tests" / f"stream_{name}.py").read_text()
    assert f"```python\n{program}```" in (ROOT / "docs" / "streams.md").read_text()


def test_a_library_of_another_version_is_named_before_a_stream_begins(photos, monkeypatch):
    monkeypatch.setattr(canaries, "library_versions", lambda: {"pillow": "1.0"})
    with pytest.warns(KdcacheWarning, match=r"pillow 1.0 instead of .*; the pixels of a stream are not compared"):
        CachedStream("logits.h5", [])
