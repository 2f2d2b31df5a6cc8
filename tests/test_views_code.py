"""A cache whose view is code of the user's: nothing runs unless it is named, and what changed is said."""

import re
import sys
from pathlib import Path

import pytest
from cli_cases import good, kdcache, refused
from train_cases import assert_same_weights, dumped, measured, teacher_of
from view_cases import spec_of, written

from kdcache import CachedDataset
from kdcache.batches import Loader
from kdcache.errors import CacheError, PipelineChanged, UsageError
from kdcache.jobs import Data, Student, taught_by
from kdcache.proof.verdicts import require_pixels
from kdcache.train import Settings
from kdcache.views import from_json, open_view

pytest.importorskip("torchvision")
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core


def test_no_header_picks_code_to_import(in_tmp):
    """As with a user's networks: somebody who opens the file has to have named it."""
    (in_tmp / "harmful.py").write_text("open('harm', 'w')")
    inner = {"view": "torchvision", "size": [8, 8], "factory": "harmful:make", "pipeline": [], "source_size": None}
    mixed = {"view": "x", "size": [8, 8], "of": inner, "rows": 5, "mixup": 1.0, "cutmix": None}
    for header in (inner, mixed, mixed | {"of": mixed}):
        for named in (None, "torchvision:other:make", "augmentor:harmful:make", "crop-flip"):
            with pytest.raises(UsageError, match="expected `augment` torchvision:harmful:make, for its view is code"):
                from_json("cache.h5", header, named)
    assert not Path("harm").exists()


@pytest.mark.parametrize("change", [{"pipeline": 3}, {"pipeline": None}, {"factory": None}, {"size": [0, 8]}])
def test_a_header_that_lies_is_refused(in_tmp, change):
    header = open_view(spec_of(written(in_tmp), "make"), (32, 32)).to_json() | change
    with pytest.raises(CacheError, match="expected a known view"):
        from_json("cache.h5", header, f"torchvision:{header['factory']}")


def test_a_name_beside_a_view_of_ours_is_refused():
    with pytest.raises(UsageError, match="expected its own view, crop, found `augment` torchvision:a:b; leave it out"):
        from_json("cache.h5", open_view("crop", (8, 8)).to_json(), "torchvision:a:b")


@pytest.fixture
def cached(in_tmp, pictures):
    """Data under a view of the user's, its teacher, and a cache of them."""

    def make(factory="make", mixing=""):
        augment = spec_of(written(in_tmp), factory) + mixing
        data = Data.open(f"folder:{pictures}", augment)
        network = teacher_of("tiny-3", Data.open("synthetic:64,2,32", None))
        return data, network, dumped(in_tmp / "a.h5", data, network, "st", batch=24), augment

    return make


@pytest.mark.parametrize("mixing", ["", pytest.param("+mixup", marks=pytest.mark.slow)])
def test_cached_equals_live(cached, mixing):
    _, network, cache, augment = cached(mixing=mixing)
    opened = Data.of_cache(cache, None, augment)
    settings = Settings(epochs=3, batch=16)
    outcomes = [
        Student(opened, "tiny-3", "st", settings, taught_by(cache, live), workers=2 * (not live)).train()
        for live in (None, network)
    ]
    assert measured(outcomes[0][1]) == measured(outcomes[1][1])
    assert_same_weights(outcomes[0][0][0], outcomes[1][0][0])
    assert len(CachedDataset(cache, augment=augment)[0][0]) == 3


@pytest.mark.usefixtures("rendered_here")
def test_a_changed_pipeline_is_a_verdict_of_its_own(cached, monkeypatch):
    _, _, cache, augment = cached("changeable")
    module = sys.modules[augment.split(":")[1]]
    monkeypatch.setattr(module, "SHIFT", 45)
    with pytest.raises(PipelineChanged, match=r"step 2 is RandomRotation\(degrees=\[0.0, 90.0\].*found Random.*45.0"):
        Data.of_cache(cache, None, augment)
    last = kdcache(f"verify a.h5 --augment {augment}").out.splitlines()[-1]
    assert re.match(r"FAIL  PipelineChanged: +a\.h5", last)


@pytest.mark.usefixtures("rendered_here")
def test_a_change_that_no_text_shows_is_seen_in_the_pixels(cached, monkeypatch):
    _, _, cache, augment = cached("hidden")
    monkeypatch.setattr(sys.modules[augment.split(":")[1]], "SHIFT", 45)
    opened = Data.of_cache(cache, None, augment)
    with pytest.raises(PipelineChanged, match="expected the pixels the teacher saw"):
        require_pixels(cache, Loader(opened.train, opened.view, cache))


@pytest.mark.usefixtures("rendered_here")
def test_a_module_that_is_gone_is_named(cached, monkeypatch):
    _, _, cache, augment = cached()
    code = augment.split(":")[1]
    Path(f"{code}.py").unlink()
    monkeypatch.delitem(sys.modules, code)
    with pytest.raises(CacheError, match=rf"a\.h5, {augment}: .*No module named '{code}'"):
        Data.of_cache(cache, None, augment)


@pytest.mark.slow
def test_a_generator_of_its_own_is_refused_by_a_dump(cached, in_tmp):
    with pytest.raises(PipelineChanged, match="view torchvision: expected a rendering that replays"):
        cached("alone")
    assert not list(in_tmp.glob("a.h5*"))


@pytest.mark.usefixtures("rendered_here")
def test_the_commands_take_it(cached):
    *_, augment = cached("make", "+cutmix")
    plain = augment.removesuffix("+cutmix")
    assert "torchvision+cutmix 32x32, factory" in good("inspect a.h5").out
    assert good(f"verify a.h5 --augment {plain}").out.count("ok  ") > 5
    assert good("verify a.h5 --no-data").code == 0
    good(f"show a.h5 --rows 2 --augment {augment}")
    good(f"train-student --cache a.h5 --student tiny-3 --epochs 1 --batch 16 --workers 0 --augment {plain}")
    for command in ("verify a.h5", "show a.h5", "train-student --cache a.h5"):
        refused(command, 2, f"expected --augment {plain}", "if you trust that code")
    refused(f"verify a.h5 --augment {plain}+mixup", 2, "its own view", "leave it out")
