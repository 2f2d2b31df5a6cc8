"""Canaries: of every method they hold the teacher's logits; what decodes or renders otherwise is called by its name."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cli_cases import good
from cli_cases import kdcache as kdcache_said
from conftest import fresh_teacher
from hostile_cases import forged
from train_cases import SPEC, asks, teacher_of

from kdcache.batches import Loader
from kdcache.cache import open_cache
from kdcache.errors import KdcacheError, LibraryChanged, PipelineChanged
from kdcache.jobs import Data, DumpOptions, make_dump
from kdcache.jobs import verify as verify_cache
from kdcache.methods import METHODS
from kdcache.models.weights import save
from kdcache.proof import canaries, verdicts
from kdcache.proof.verdicts import require_pixels
from kdcache.sources import decode, encoded

ASKING = [name for name in METHODS if asks(name)]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Data, the weights of a teacher, those of another, and a cache of any method."""
    place, data = tmp_path_factory.mktemp("taught"), Data.open(SPEC, "crop-flip")
    network = teacher_of("resnet8", data)
    save(network, place / "teacher.safetensors")

    def dumped(method: str) -> Path:
        path = place / f"{method.replace('/', '-')}.h5"
        with make_dump(network, data, DumpOptions(path, 2, method=method)) as dump:
            return dump.run()

    return place / "teacher.safetensors", dumped


def verified(path: Path, weights: Path) -> dict[str, tuple[bool, str]]:
    checks = verify_cache(str(path), None, False, None, "resnet8", str(weights), "cpu", path.parent)
    return {check.name: (check.ok, check.detail) for check in checks}


@pytest.mark.parametrize("method", [*ASKING[:6], *(pytest.param(one, marks=pytest.mark.slow) for one in ASKING[6:])])
def test_every_method_can_be_asked_again(taught, method):
    weights, dumped = taught
    path = dumped(method)
    found = verified(path, weights)
    assert all(ok for ok, _ in found.values()), found
    assert "canaries answered within" in found["teacher"][1]


@pytest.mark.parametrize("method", ASKING)
def test_a_file_without_logits_is_compared_by_its_records(taught, method, tmp_path):
    """As files were made before canaries of every method had some."""
    weights, dumped = taught
    path = forged(dumped(method), tmp_path / "old.h5", {"canaries/logits": None, "canaries/thumb": None})
    found = verified(path, weights)
    assert all(ok for ok, _ in found.values()), found
    assert found["teacher"][1].startswith("no logits among the canaries; ")


@pytest.mark.parametrize("method", ASKING)
def test_records_of_another_teacher_are_noticed(taught, method, tmp_path, monkeypatch):
    _, dumped = taught
    path = forged(dumped(method), tmp_path / "old.h5", {"canaries/logits": None})
    monkeypatch.setattr(verdicts, "require_teacher", lambda *_: None)
    data = Data.open(SPEC, "crop-flip")
    save(teacher_of("resnet8", data, seed=6), tmp_path / "other.safetensors")
    assert "the answers in the file" in verified(path, tmp_path / "other.safetensors")["TeacherChanged"][1]


@pytest.fixture(scope="module")
def photographs(pictures, dump, tmp_path_factory):
    """A folder under a native view, and a cache of it."""
    data = Data.open(f"folder:{pictures}", "resized-crop:16")
    network = fresh_teacher(Data.open("synthetic:200,2,16", None), 1)
    return data, dump(tmp_path_factory.mktemp("photographs") / "x.h5", data=data, network=network, views=1)


SAID = (
    r"\(at most \d+ levels?, [\d.]+ on average; in an 8x8 grid at most \d+ levels?, [\d.]+ on average;"
    r" once decoded by .*\)"
)
OLD = {"canaries/thumb": None, "canaries/pixels": None}  # what files of before do not have


def decoded_with(monkeypatch, levels: int) -> None:
    """From now on, files are decoded so much brighter."""
    before = decode.decode
    brighter = lambda path, data: (before(path, data).astype(int) + levels).clip(0, 255).astype(np.uint8)  # noqa: E731
    monkeypatch.setattr(encoded, "decode", brighter)


@pytest.mark.parametrize("package", decode.PACKAGES)
def test_a_decoder_of_another_version_is_named(photographs, monkeypatch, package):
    data, path = photographs
    cache, now = open_cache(path), canaries.library_versions()
    check = partial(require_pixels, cache, Loader(data.train, data.view, cache))
    decoded_with(monkeypatch, 20)
    with pytest.raises(PipelineChanged, match=SAID + "; restore"):
        check()
    monkeypatch.setattr(canaries, "library_versions", lambda: now | {package: "99"})
    with pytest.raises(LibraryChanged, match=rf"with {package} 99 instead of [\d.]+; install the version"):
        check()


def test_a_decoder_that_rounds_otherwise_is_forgiven_and_named(photographs, monkeypatch):
    data, path = photographs
    cache, now = open_cache(path), canaries.library_versions()
    check = partial(require_pixels, cache, Loader(data.train, data.view, cache))
    decoded_with(monkeypatch, 1)
    assert re.search(f"canaries differ by rounding only {SAID}", check())
    monkeypatch.setattr(canaries, "library_versions", lambda: now | {"pillow": "99"})
    assert check().endswith(f", with pillow 99 instead of {now['pillow']}")


def test_a_file_without_averages_gets_the_verdict_of_its_versions(photographs, monkeypatch, tmp_path):
    data, path = photographs
    cache, now = open_cache(forged(path, tmp_path / "old.h5", OLD)), canaries.library_versions()
    check = partial(require_pixels, cache, Loader(data.train, data.view, cache))
    decoded_with(monkeypatch, 1)
    with pytest.raises(PipelineChanged, match="other pixels in 41 of 41 canaries; restore"):
        check()
    monkeypatch.setattr(canaries, "library_versions", lambda: now | {"pillow": "99"})
    with pytest.raises(LibraryChanged, match="other pixels in 41 of 41 canaries, with pillow 99 instead of"):
        check()


def test_a_decoder_whose_pixels_differ_more_than_their_averages_is_no_rounding(photographs, monkeypatch):
    """Stripes are brighter or darker; whatever is left of them in averages is put aside."""
    data, path = photographs
    before, signs = decode.decode, np.indices((70, 68)).sum(0) % 4 // 2 * 2 - 1

    def wavy(path, data):
        image = before(path, data).astype(int)
        return (image + 40 * signs[: image.shape[1], : image.shape[2]]).clip(0, 255).astype(np.uint8)

    monkeypatch.setattr(encoded, "decode", wavy)
    monkeypatch.setattr(verdicts, "drift", lambda *_: np.zeros(1, int))
    with pytest.raises(PipelineChanged, match=SAID):
        require_pixels(open_cache(path), Loader(data.train, data.view, open_cache(path)))


@pytest.mark.parametrize("levels", [1, 5, 20])
def test_so_many_levels_are_tolerated_and_no_more(photographs, monkeypatch, levels):
    data, path = photographs
    cache = open_cache(path)
    opened = Data.of_cache(cache)
    check = partial(require_pixels, cache, Loader(opened.train, data.view, cache), exact=True)
    decoded_with(monkeypatch, levels)
    for tolerated in (0, levels - 1, None):
        opened.tolerate(tolerated)
        with pytest.raises(PipelineChanged, match=rf"{SAID}; .*`tolerate_decoder` {levels} goes on"):
            check()
    opened.tolerate(levels)
    assert check().startswith("41 of 41 canaries differ as far as `tolerate_decoder` allows (at most ")


def test_the_tolerance_of_a_file_of_before_is_for_averages(photographs, monkeypatch, tmp_path):
    data, path = photographs
    cache = open_cache(forged(path, tmp_path / "old.h5", {"canaries/pixels": None}))
    opened = Data.of_cache(cache)
    decoded_with(monkeypatch, 5)
    check = partial(require_pixels, cache, Loader(opened.train, data.view, cache))
    opened.tolerate(4)
    with pytest.raises(PipelineChanged, match=r"canaries \(at most [56] levels, [\d.]+ on average, in an 8x8"):
        check()
    opened.tolerate(6)
    assert "as far as `tolerate_decoder` allows (at most " in check()


def test_a_file_with_values_and_no_averages_is_refused_in_words(photographs, monkeypatch, tmp_path):
    data, path = photographs
    cache = open_cache(forged(path, tmp_path / "odd.h5", {"canaries/thumb": None}))
    decoded_with(monkeypatch, 5)
    with pytest.raises(PipelineChanged, match=r"\(at most 5 levels, [\d.]+ on average; once decoded by "):
        require_pixels(cache, Loader(data.train, data.view, cache))


def test_what_no_decoder_made_is_not_tolerated(cache, data, monkeypatch):
    opened = Data.of_cache(cache)
    opened.tolerate(255)
    loader = Loader(opened.train, data.view, cache)
    monkeypatch.setattr(Loader, "images", lambda self, items: self.show(items).images ^ 1)
    with pytest.raises(PipelineChanged):
        require_pixels(cache, loader)


def test_the_commands_go_on_where_they_are_told(pictures, in_tmp, monkeypatch):
    """verify, train-student and a dump that was interrupted, after files have come to be decoded otherwise."""
    data, how = f"--data folder:{pictures} --augment resized-crop:16", "--device cpu --workers 0"
    dump = f"dump-logits --teacher tiny-2 {data} --views 2 {how}"
    good(f"train-teacher --model tiny-2 {data} --epochs 1 {how}")
    good(f"{dump} -o whole.h5")
    with monkeypatch.context() as patch:
        patch.setattr("kdcache.cache.writer.Writer.finish", lambda self: (_ for _ in ()).throw(KdcacheError(*"abcd")))
        assert kdcache_said(f"{dump} -o begun.h5").code == 1
    decoded_with(monkeypatch, 2)
    student = f"train-student --cache whole.h5 --student tiny-2 --epochs 1 {how}"
    for line in (f"{dump} -o begun.h5", "verify whole.h5 --device cpu", student):
        assert kdcache_said(f"{line} --tolerate-decoder 1").code == 1
        good(f"{line} --tolerate-decoder 2")


def test_images_in_memory_do_not_depend_on_a_decoder(cache, data, monkeypatch):
    now = canaries.library_versions()
    monkeypatch.setattr(canaries, "library_versions", lambda: now | {"pillow": "99"})
    loader = Loader(data.train, data.view, 1)
    assert canaries.changed_packages(cache.meta["libraries"], canaries.packages(loader)) == ""
    with pytest.raises(PipelineChanged):
        require_pixels(cache, loader)


def test_small_files_that_are_held_in_memory_do(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(tmp_path / split / label / "0.png")
    source = Data.open(f"folder:{tmp_path}", "none").train
    assert source.resident is not None
    assert source.packages == source.take(np.arange(1)).packages == decode.PACKAGES
