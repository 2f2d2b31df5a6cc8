"""What every kind of source promises, on a few images of each that are made here."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from source_cases import CLASSES, ENCODED, MADE, TRAIN, contents, unchecked

from kdcache.batches import Loader
from kdcache.cache import open_cache
from kdcache.errors import DataChanged, SourceError
from kdcache.jobs import Data, verify
from kdcache.sources import SOURCES, open_source
from kdcache.sources.arrays import TOGETHER, digest
from kdcache.sources.encoded import EncodedSource
from kdcache.views import open_view

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
VIEW = "resized-crop:16"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Images of every kind: its name -> what it is opened by."""
    root = tmp_path_factory.mktemp("kinds")
    with pytest.MonkeyPatch.context() as patch:
        unchecked(patch)
        patch.setenv("KDCACHE_DATA", str(root / "library"))
        (root / "library").mkdir()
        made = {}
        for name in SOURCES:
            here = root / name if name in ENCODED else root / "library"
            here.mkdir(exist_ok=True)
            made[name] = MADE[name](here)
        yield made


@pytest.fixture(params=SOURCES)
def spec(request, places) -> str:
    return places[request.param]


def images(source, rows=None) -> list[np.ndarray]:
    return [image.numpy() for image in source.read(range(len(source)) if rows is None else rows)]


def same(mine, theirs) -> bool:
    return len(mine) == len(theirs) and all(map(np.array_equal, mine, theirs))


def told(bars: list):
    """A progress bar that notes its words, and how many images it counts."""

    def bar(items, total, desc, unit, scale=1):
        assert unit == "images"
        bars.append((desc, total * scale))
        return items

    return bar


def test_digests_of_all_are_those_of_each_and_are_counted(spec):
    source, bars = open_source(spec), []
    assert [*source.hashes(told(bars))] == source.digests(range(len(source))).tolist()
    [(words, counted)] = bars
    assert words == "comparing images"
    assert 0 <= counted - len(source) < TOGETHER  # what is in memory is counted by blocks


@pytest.mark.parametrize("split", ["train", "eval"])
def test_rows_are_the_same_every_time(spec, split):
    source, again = (open_source(spec, split) for _ in range(2))
    every, last = images(source), len(source) - 1
    assert same(every, images(again))
    assert same([every[last], every[0], every[last]], images(source, [last, 0, last]))
    assert source.fingerprint() == again.fingerprint()
    assert np.array_equal(source.digests(range(len(source))), again.check())
    assert len(set(source.digests(range(len(source))).tolist())) == len(source)
    assert source.labels.dtype == np.int64
    assert np.array_equal(source.labels, again.labels)
    assert source.labels.max() < len(source.classes)
    assert (source.spec, source.split) == (spec, split)
    assert source.names is None or len(source.names) == len(source)


def test_both_splits_have_the_same_classes_and_no_image_in_common(spec):
    train, held_out = (open_source(spec, split) for split in ("train", "eval"))
    assert train.classes == held_out.classes
    assert len({*train.classes}) == len(train.classes)
    assert not {*train.check().tolist()} & {*held_out.check().tolist()}


def test_a_part_has_the_rows_of_the_whole(spec):
    whole, half = open_source(spec), open_source(spec, fraction=0.5)
    at = {found: row for row, found in enumerate(whole.check().tolist())}
    rows = [at[found] for found in half.check().tolist()]
    assert len(half) == round(len(whole) / 2)
    assert rows == sorted(rows)
    assert half.labels.tolist() == whole.labels[rows].tolist()
    assert same(images(half), images(whole, rows))
    assert same(images(half.take(np.array([2, 0]))), images(whole, [rows[2], rows[0]]))


def pixels_of(sources: list) -> list[list[np.ndarray]]:
    return [images(source, [3, 1, 3]) for source in sources]


def test_a_spawned_process_reads_the_same(places):
    sources = [open_source(spec) for spec in places.values()]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        theirs = pool.apply(pixels_of, [sources])
    assert all(map(same, pixels_of(sources), theirs))


@pytest.mark.parametrize("name", ENCODED)
def test_forked_workers_read_the_same(places, name):
    source = open_source(places[name])
    view = open_view(VIEW, source.size)
    items = np.arange(2 * len(source))
    here = Loader(source, view, 1).images(items)
    loader = Loader(source, view, 1, workers=2)
    assert torch.equal(torch.cat([batch.images for batch in loader.run(np.array_split(items, 7))]), here)


@pytest.fixture(scope="module")
def dumps(places, dump, tmp_path_factory):
    """Of every kind, a cache of a small teacher, made twice."""
    from conftest import fresh_teacher

    root, made = tmp_path_factory.mktemp("dumps"), {}

    def made_of(name: str) -> tuple[Data, list[Path]]:
        if name not in made:
            data = Data.open(places[name], VIEW)
            network = fresh_teacher_of(fresh_teacher, data)
            options = {"data": data, "network": network, "views": 2, "codec": "f32"}
            made[name] = data, network, [dump(root / f"{name}-{n}.h5", workers=2 * n, **options) for n in range(2)]
        return made[name]

    return made_of


def fresh_teacher_of(make, data: Data):
    """A teacher whose statistics come from rendered images, since those of files differ in size."""
    loader = Loader(data.train, data.view, 0)
    rendered = Data(Rendered(data.train, loader), data.held_out, data.view)
    return make(rendered, seed=1)


class Rendered:
    """Training images as the view shows them."""

    def __init__(self, source, loader):
        self.classes, self.mean, self.std = source.classes, source.mean, source.std
        self.read = lambda rows: loader.images(np.arange(min(len(source), len(rows))))


@pytest.mark.parametrize("name", SOURCES)
def test_a_dump_ends_in_the_same_bytes_and_is_verified(dumps, name):
    data, _, (first, second) = dumps(name)
    assert first.read_bytes() == second.read_bytes()
    assert open_cache(first).meta["source"]["classes"] == data.train.classes
    checks = list(verify(first, None, False, None, None, None, "cpu", "runs"))
    assert all(check.ok for check in checks), checks
    assert {"images", "evaluation images", "pixels"} <= {check.name for check in checks}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_stored_is_what_the_teacher_says(dumps, name):
    data, network, (file, _) = dumps(name)
    cache = open_cache(file)
    loader = Loader(data.train, data.view, cache)
    rows = np.arange(min(32, len(data.train)))
    with torch.inference_mode():
        live = network.eval()(loader.images(rows + len(data.train)))
    stored = cache.read(1, rows, ["logits"])["logits"]
    assert torch.allclose(stored, live, rtol=1e-5, atol=1e-5)


# what encoded images have in common


@pytest.mark.parametrize("name", ENCODED)
def test_the_bytes_are_those_of_the_files(places, name):
    """In whatever they lie, so that a cache of one may be used with another."""
    source = open_source(places[name])
    assert isinstance(source, EncodedSource)
    wanted = {digest(data): label for _, data, label in contents()["train"]}
    assert dict(zip(source.check().tolist(), source.labels.tolist(), strict=True)) == wanted
    assert source.classes == (["0", "1", "2"] if name == "wds" else CLASSES)


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("spoilt", [[7], [5, 7, 20]])
def test_damaged_images_are_named(tmp_path, name, spoilt):
    with pytest.raises(SourceError) as caught:
        open_source(MADE[name](tmp_path, spoilt)).check()
    said = str(caught.value)
    number = "train/{}" if name == "hf" else "{:03}."
    assert all(number.format(row) in said for row in spoilt), said
    assert "a whole JPEG, PNG or WebP image" in said or "3 that are not" in said


@pytest.mark.parametrize("name", ENCODED)
def test_a_changed_image_is_named_when_it_is_read(places, name):
    source = open_source(places[name])
    digests = source.check()
    digests[TRAIN - 1] += 1
    source.expect(digests)
    source.read(range(TRAIN - 1))
    with pytest.raises(DataChanged, match=f"another file than the teacher saw as row {TRAIN - 1}"):
        source.read([TRAIN - 1])


@pytest.mark.parametrize("name", ENCODED)
def test_bounds_hold_for_all(places, name, monkeypatch):
    source = open_source(places[name])
    monkeypatch.setenv("KDCACHE_MAX_IMAGE_BYTES", "100")
    with pytest.raises(SourceError, match="more than the 100 that are read of it"):
        source.read([0])
    monkeypatch.delenv("KDCACHE_MAX_IMAGE_BYTES")
    monkeypatch.setenv("KDCACHE_MAX_PIXELS", "1000")
    with pytest.raises(SourceError, match="at most 1,000 pixels"):
        source.read([0])
