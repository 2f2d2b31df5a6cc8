"""Verdicts: what changed since the dump is named for what it is, and nothing that changed is taken for the same."""

import contextlib
import shutil
from functools import partial

import albumentations
import numpy as np
import pytest
import torch
from conftest import fresh_teacher, render_here
from hostile_cases import forged

from kdcache.batches import Loader
from kdcache.cache import open_cache
from kdcache.errors import DataChanged, LibraryChanged, PipelineChanged, TeacherChanged
from kdcache.jobs import Data
from kdcache.methods import build as build_method
from kdcache.proof import canaries
from kdcache.proof.verdicts import require_images, require_pixels, require_source, require_teacher, verify
from kdcache.sources import open_source
from kdcache.teachers import Forward, LiveTeacher, describe
from kdcache.views import from_json, open_view


@contextlib.contextmanager
def asked(network, forward=Forward(64)):  # noqa: B008 - frozen
    with LiveTeacher(network, build_method("st"), forward) as teacher:
        yield teacher


def checks(cache, source=None, network=None, view=None) -> dict[str, tuple[bool, str]]:
    """The outcome of every check by its name."""
    view = view or from_json(cache.path, cache.meta["view"])
    with asked(network) if network else contextlib.nullcontext() as teacher:
        described = describe(network) if network else {}
        return {c.name: (c.ok, c.detail) for c in verify(cache, source, view, teacher, described)}


def test_nothing_has_changed(cache, data, teacher):
    found = checks(cache, data.train, fresh_teacher(data, 1))
    stored, rest = (
        ["digests", "eval/logits", "knowledge/logits", "seeds"],
        ["source", "images", "pixels", "teacher", "rounding"],
    )
    assert list(found) == ["header", "padding", *stored, "canary records", *rest]
    assert all(ok for ok, _ in found.values())
    assert found["knowledge/logits"] == (True, "0 of 6 blocks damaged")
    assert found["pixels"] == (True, "64 canaries are pixel for pixel the same")


def test_damage_is_counted_and_placed(copied, data):
    with open(copied, "r+b") as file:
        place = open_cache(copied).layout.places["knowledge/logits"].offset
        for row in (1300 + 1030, 2 * 1300):
            file.seek(place + row * 20)
            file.write(b"\x7f\x7f")
    found = checks(open_cache(copied, check=False), data.train)
    assert found["knowledge/logits"] == (False, "2 of 6 blocks damaged: view 1, rows from 1024")
    assert list(found)[-1] == "seeds"  # what is damaged is compared with nothing


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("synthetic:1300,10,16", "content hash"),
        ("synthetic:1200,10,8", "rows 1300, found rows 1200"),
        ("synthetic:1300,9,8", r"classes \['class0'"),
        ("digits", "rows 1300, found rows 1437"),
    ],
)
def test_other_data(cache, spec, found):
    source = open_source(spec, "train")
    with pytest.raises(DataChanged, match=rf"logits.h5 on {spec}: expected .*{found}.*; give the data"):
        require_source(cache, source)
    name, (ok, detail) = list(checks(cache, source).items())[-1]
    assert (name, ok) == ("DataChanged", False)
    assert "give the data it was made from with `data`, or dump again" in detail


def test_other_labels(forge_labels, data):
    with pytest.raises(DataChanged, match="expected the same labels, found other labels"):
        require_source(forge_labels, data.train)


@pytest.fixture
def forge_labels(cache_file, tmp_path):
    labels = np.zeros(1300, "<i4")
    return open_cache(forged(cache_file, tmp_path / "x.h5", {"labels": labels}))


def test_one_pixel_of_one_image(cache, data):
    source = data.train.take(np.arange(1300))
    source.resident = source.resident.clone()
    source.resident[700, 0, 0, 0] ^= 1
    with pytest.raises(DataChanged, match="another image as row 700"):
        require_images(cache, source)
    with pytest.raises(DataChanged, match="content hash"):
        require_source(cache, source)


@pytest.mark.parametrize("other", ["crop", "none", "crop-flip-cutout", "resized-crop:8"])
def test_another_view(cache, data, other):
    view = open_view(other, (8, 8))
    with pytest.raises(
        PipelineChanged, match=r"view [a-z-]+: expected the pixels the teacher saw, found other pixels in"
    ):
        require_pixels(cache, Loader(data.train, view, cache))
    assert list(checks(cache, data.train, view=view))[-1] == "PipelineChanged"


def test_other_seeds(cache, data):
    with pytest.raises(PipelineChanged):
        require_pixels(cache, Loader(data.train, data.view, 1))


@pytest.mark.parametrize("change", [lambda n: n.body.fc.bias.data.add_(1e-6), lambda n: n.normalize.mean.add_(1e-3)])
def test_other_weights(cache, data, change):
    network = fresh_teacher(data, 1)
    with torch.no_grad():
        change(network)
    with pytest.raises(TeacherChanged, match="fingerprint"):
        require_teacher(cache, describe(network))
    name, (ok, detail) = list(checks(cache, data.train, network).items())[-1]
    assert (name, ok) == ("TeacherChanged", False)
    assert "give the weights it was made with, or dump again" in detail


@pytest.mark.parametrize("value", [3.0, float("nan")])
def test_a_teacher_that_claims_to_be_the_same(cache, data, teacher, value):
    network = fresh_teacher(data, 1)
    network.body.fc.weight.data[0] = value
    with asked(network) as other:
        found = [c for c in verify(cache, data.train, data.view, other, describe(teacher)) if not c.ok]
    assert [check.name for check in found] == ["TeacherChanged"]
    assert "expected the answers in the file, found logits that differ by" in found[0].detail


@pytest.fixture(scope="module")
def library(dump, tmp_path_factory):
    """Data under a view of albumentations, and a cache of it."""
    folder = tmp_path_factory.mktemp("library")
    pipeline = albumentations.Compose([albumentations.Rotate(30, p=1), albumentations.RandomBrightnessContrast(p=1)])
    albumentations.save(pipeline, folder / "p.json")
    data = Data.open("synthetic:60,10,16", f"albumentations:{folder / 'p.json'}")
    network = fresh_teacher(Data.open("synthetic:200,10,16", None), 1)
    with pytest.MonkeyPatch.context() as patch:
        render_here(patch)
        return data, dump(folder / "x.h5", data=data, network=network, views=2)


def rendered_with(monkeypatch, view, change):
    render = type(view).render
    monkeypatch.setattr(type(view), "render", lambda self, images, seeds: change(render(self, images, seeds)))


def brighter(images, levels):
    return (images.int() + levels).clamp(0, 255).byte()


def test_a_library_of_another_version_that_renders_otherwise(library, monkeypatch):
    data, path = library
    cache, now = open_cache(path), canaries.library_versions()
    rendered_with(monkeypatch, data.view, partial(brighter, levels=20))
    check = partial(require_pixels, cache, Loader(data.train, data.view, cache))
    with pytest.raises(PipelineChanged, match="restore the pipeline"):
        check()
    monkeypatch.setattr(canaries, "library_versions", lambda: now | {"albumentations": "9.9"})
    with pytest.raises(LibraryChanged, match=r"with albumentations 9.9 instead of [\d.]+; install the version"):
        check()
    monkeypatch.setattr(canaries, "library_versions", lambda: {k: v for k, v in now.items() if k != "albumentations"})
    with pytest.raises(LibraryChanged, match="with albumentations missing instead of"):
        check()


def test_a_library_that_rounds_otherwise_on_another_machine(library, monkeypatch):
    data, path = library
    cache = open_cache(path)
    rendered_with(monkeypatch, data.view, partial(brighter, levels=1))
    said = require_pixels(cache, Loader(data.train, data.view, cache))
    assert "canaries differ by rounding only (at most 2 levels" in said  # one, and what rounding halves adds


def test_a_folder_that_moved_is_the_same_data(pictures, dump, tmp_path):
    old, new = shutil.copytree(pictures, tmp_path / "old"), tmp_path / "new"
    network = fresh_teacher(Data.open("synthetic:200,2,16", None), 1)
    cache = open_cache(dump(tmp_path / "x.h5", data=Data.open(f"folder:{old}", "resized-crop:16"), network=network))
    old.rename(new)
    source = open_source(f"folder:{new}", "train")
    assert all(ok for ok, _ in checks(cache, source).values())
    shutil.copy(new / "train/dog/01.png", new / "train/dog/04.png")
    assert "another image as row 34" in checks(cache, source)["DataChanged"][1]
    (new / "train/dog/05.png").unlink()
    with pytest.raises(DataChanged, match="expected rows 60, found rows 59"):
        require_source(cache, open_source(f"folder:{new}", "train"))
