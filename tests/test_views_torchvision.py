"""Pipelines that a function of the user's returns: torchvision's, Augmentor's, or any function of an image."""

import json
import pickle
import random

import numpy as np
import pytest
import torch
from reference_views import made_images, made_seeds
from view_cases import assert_workers_render_the_same, spec_of, written

from kdcache.batches import Loader
from kdcache.errors import UsageError
from kdcache.sources.arrays import ArraySource
from kdcache.views import from_json, open_view
from kdcache.views.library import render_elsewhere
from kdcache.views.native import Centre, Untouched

pytest.importorskip("torchvision")
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # on a machine of one core
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # of Augmentor
]


@pytest.fixture
def opened(in_tmp):
    code = written(in_tmp)
    return lambda factory, size=(32, 32): open_view(spec_of(code, factory), size)


def require_augmentor(factory: str) -> None:
    if factory == "augmentor:real":
        pytest.importorskip("Augmentor")


EVERY = ["make", "classical", "pictured", "resized", "augmentor:Pipeline", "augmentor:real"]


@pytest.mark.parametrize("factory", EVERY)
def test_pixels_depend_on_image_and_seed_alone(opened, factory):
    require_augmentor(factory)
    view, images, seeds = opened(factory), made_images(24, 32, 32), made_seeds(24)
    rendered = view.render(images, seeds)
    order = torch.from_numpy(np.random.default_rng(0).permutation(24))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert torch.equal(view.render(images[order], seeds[order]), rendered[order])
    alone = [view.render([images[i]], seeds[i : i + 1]) for i in range(24)]
    assert torch.equal(torch.cat(alone), rendered)
    varied = view.render(images[:1].expand(24, -1, -1, -1), seeds)
    assert len({image.numpy().tobytes() for image in varied}) > 15
    assert torch.equal(images, made_images(24, 32, 32))
    assert type(rendered) is torch.Tensor


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("make", "pictured", "augmentor:Pipeline", "augmentor:real")
]


@pytest.mark.parametrize("factory", ["drawn", *SLOW])
def test_a_fresh_process_renders_the_same(opened, factory):
    require_augmentor(factory)
    view = opened(factory)
    given = made_images(4, 32, 32), made_seeds(4)
    assert torch.equal(render_elsewhere(view, *given), view.render(*given))


@pytest.mark.parametrize("factory", ["python", "numpy", "torchs"])
def test_the_global_generators_are_seeded_and_restored(opened, factory):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    view, images, seeds = opened(factory), made_images(12, 32, 32), made_seeds(12)
    first = view.render(images, seeds)
    with pytest.raises(UsageError):
        view.render(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), made_seeds(1))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.equal(view.render(images.flip(0), seeds.flip(0)).flip(0), first)
    assert len({image.numpy().tobytes() for image in first - images}) > 6
    assert torch.equal(images, made_images(12, 32, 32))


def test_torch_has_one_thread_as_in_a_worker(opened):
    """With more, sums of floats may round otherwise."""
    torch.set_num_threads(2)
    try:
        assert opened("threads").render(made_images(2, 32, 32), made_seeds(2)).unique().tolist() == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("factory", "names"),
    [("with_tail", "ToDtype, Normalize, ToPureTensor"), ("classical", "ToTensor, Normalize"), ("pictured", "ToTensor")],
)
def test_trailing_normalisation_is_taken_off_with_a_notice(opened, factory, names):
    assert opened(factory).notice.endswith(f"{factory}: took off {names}: the network normalises")


def test_what_is_taken_off_changes_nothing_else(opened):
    images, seeds = made_images(8, 32, 32), made_seeds(8)
    view = opened("make")
    assert not view.notice
    assert torch.equal(opened("with_tail").render(images, seeds), view.render(images, seeds))


@pytest.mark.parametrize("factory", EVERY)
def test_it_comes_back_from_its_header(opened, factory):
    require_augmentor(factory)
    view, images = opened(factory), (made_images(6, 32, 32), made_seeds(6))
    back = from_json("cache.h5", json.loads(json.dumps(view.to_json())), view.spec)
    assert back == view
    assert "_live" not in pickle.loads(pickle.dumps(view)).__dict__
    for other in (back, pickle.loads(pickle.dumps(view))):
        assert torch.equal(other.render(*images), view.render(*images))


def test_the_evaluation_view_is_the_image_or_its_middle(opened):
    assert opened("make").evaluation() == Untouched((32, 32))
    assert opened("resized").evaluation() == opened("resized", None).evaluation() == Centre((24, 20))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_either_start_method_render_the_same(opened, method):
    view = opened("make")
    source = ArraySource("train", made_images(120, 32, 32), np.arange(120) % 10, list("0123456789"), "none")
    assert_workers_render_the_same(Loader(source, view, 3), method)


@pytest.mark.parametrize(
    ("factory", "finding"),
    [
        ("early_float", "expected uint8 RGB pixels, found torch.float32 (3, 32, 32); leave normalisation to the net"),
        ("grey", "expected uint8 RGB pixels, found torch.uint8 (1, 32, 32)"),
        ("several", "expected images of one size, found 2"),
        ("large", "expected a pipeline that takes images of 32 x 32, found ValueError Required crop size"),
        ("number", "expected a torchvision pipeline, found int; let the function return a Compose"),
        ("needs", "expected a torchvision pipeline from needs(), found TypeError: needs() missing"),
        ("fails", "from fails(), found RuntimeError: first line, in "),
        ("SHIFT", "expected a function that returns a torchvision pipeline, found int"),
        ("absent", "expected MODULE:FACTORY that can be imported, found AttributeError"),
        ("augmentor:random.Random", "expected an Augmentor.Pipeline, found Random"),
    ],
)
def test_what_cannot_be_a_view_is_refused_in_one_line(opened, factory, finding):
    with pytest.raises(UsageError) as caught:
        opened(factory)
    assert finding in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["torchvision", "torchvision:", "torchvision:make", "augmentor:make"])
def test_a_view_without_its_function_is_told_what_to_name(spec):
    with pytest.raises(UsageError, match=rf"`augment`: expected {spec.partition(':')[0]}:MODULE:FACTORY, found"):
        open_view(spec, (32, 32))
