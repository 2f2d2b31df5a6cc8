"""Training cannot tell a cache from the teacher itself: the same losses and the same weights, to the last bit."""

import functools

import numpy as np
import pytest
import torch
from train_cases import (
    SAME_WIDTH,
    SPEC,
    TEXTS,
    Fixture,
    asks,
    assert_same_weights,
    dumped,
    measured,
    name_of,
    teacher_of,
)

from kdcache.cache import open_cache
from kdcache.errors import TeacherChanged, UsageError
from kdcache.jobs import Data, DumpOptions, Student, make_dump, taught_by
from kdcache.methods import METHODS, build
from kdcache.models.network import shapes
from kdcache.teachers import Forward, LiveTeacher
from kdcache.teachers.exact import ROWS, AlignedProducts
from kdcache.train import Settings
from kdcache.types import Batch
from kdcache.views.native import Crop

pytestmark = pytest.mark.usefixtures("few_are_tried")
CACHEABLE = [text for text in TEXTS if asks(text)]
SUMS = ["st+at", "st:0.5+ft+rkd", "fitnet/paper+kdsvd", "ab+vid", "fsp+mhgd", "st+co+tfkd", "at+dml"]


def side_by_side(texts, most=5):
    """Sums of these methods, each with a name once: of each, the losses are recorded."""
    sums = []
    for text in texts:
        free = (one for one in sums if len(one) < most and name_of(text) not in map(name_of, one))
        one = next(free, None)
        if one is None:
            sums.append(one := [])
        one.append(text)
    return ["+".join(one) for one in sums]


BRIDGED = [name for name in METHODS if asks(name) and name not in SAME_WIDTH] + ["ab/rep", "at/post", "fitnet/paper"]


@pytest.fixture(scope="module")
def same(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("same"), "resnet8", CACHEABLE)


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("wider"), "wrn-16-2", BRIDGED)


@pytest.fixture(autouse=True)
def constants_come_from_the_cache(monkeypatch):
    """Once the dump is made, no method prepares anything again."""

    def forbidden(*_):
        raise AssertionError("prepared again")

    def forbid():
        for method in METHODS.values():
            monkeypatch.setattr(method, "prepare", forbidden)

    return forbid


def assert_cached_equals_live(fixture, method, **settings):
    outcomes = [fixture.student(method, live=live, **settings).train() for live in (False, True)]
    (cached, said), (live, repeated) = outcomes
    assert measured(said) == measured(repeated)
    assert len(cached) == len(live)
    for mine, theirs in zip(cached, live, strict=True):
        assert_same_weights(mine, theirs)


@pytest.mark.parametrize(
    "text", [*side_by_side(CACHEABLE), *SUMS, *(pytest.param(one, marks=pytest.mark.slow) for one in CACHEABLE)]
)
def test_cached_equals_online(same, text, constants_come_from_the_cache):
    constants_come_from_the_cache()
    assert_cached_equals_live(same, text)


@pytest.mark.parametrize(
    "text", [*(pytest.param(one, marks=pytest.mark.slow) for one in BRIDGED), "st+ft+co", "ab+vid", "at+dml"]
)
def test_cached_equals_online_for_a_wider_teacher(wider, text, constants_come_from_the_cache):
    constants_come_from_the_cache()
    assert_cached_equals_live(wider, text, batch=24)


def test_every_method_that_asks_a_teacher_is_among_them():
    assert {name_of(text) for text in CACHEABLE} == METHODS.keys() - {"none", "ls", "uskd", "dml", "reviewkd"}


def test_what_is_live_only_trains_beside_a_cache_and_is_not_looked_for_in_it(same, tmp_path):
    _, records = same.student("reviewkd", live=True, epochs=1).train()
    assert records[0]["loss"]["reviewkd"] > 0
    with pytest.raises(UsageError, match="bytes of every sample-view"):
        same.student("reviewkd").train()
    with pytest.raises(UsageError, match="bytes of every sample-view"):
        dumped(tmp_path / "a.h5", same.data, same.network, "st+reviewkd")


@pytest.mark.parametrize("batch", [2, 17, 48, 49])
def test_cached_equals_online_whatever_the_batch(same, batch):
    assert_cached_equals_live(same, "st+at+ft", batch=batch, epochs=1)


@pytest.mark.parametrize("settings", [{"optimizer": "adamw", "lr": 1e-3}, {"dtype": "bf16"}, {"clip": 0.5}], ids=str)
def test_cached_equals_online_whatever_the_settings(same, settings):
    assert_cached_equals_live(same, "st+vid+kdsvd", **settings)


@pytest.mark.parametrize("trained_so", [False, True], ids=["student", "student channels_last"])
@pytest.mark.parametrize("asked_so", [False, True], ids=["teacher", "teacher channels_last"])
def test_the_teacher_keeps_its_layout_whatever_the_students_is(tmp_path, trained_so, asked_so):
    data = Data.open(SPEC, "crop-flip")
    network = teacher_of("resnet8", data)
    cache = dumped(tmp_path / "a.h5", data, network, "st+at", channels_last=asked_so)
    settings = Settings(epochs=1, batch=20, channels_last=trained_so)
    outcomes = [Student(data, "resnet8", "st+at", settings, taught_by(cache, live)).train() for live in (None, network)]
    assert measured(outcomes[0][1]) == measured(outcomes[1][1])
    assert_same_weights(outcomes[0][0][0], outcomes[1][0][0])


def test_all_views_equal_online_over_more_epochs_than_views(tmp_path):
    """Nine renderings of a crop padded by one; after the ninth epoch they begin again, for both."""
    data = Data.open(SPEC, "crop")
    data.view = Crop(data.view.size, pad=1)
    network = teacher_of("resnet8", data)
    options = DumpOptions(tmp_path / "a.h5", "all", codec="f32", forward=Forward(24))
    with make_dump(network, data, options) as dump:
        cache = open_cache(dump.run())
    assert cache.views == 9
    data = Data.of_cache(cache, None)
    settings = Settings(epochs=20, batch=16, lr=0.02)
    outcomes = [Student(data, "resnet8", "st", settings, taught_by(cache, live)).train() for live in (None, network)]
    assert measured(outcomes[0][1]) == measured(outcomes[1][1])
    assert_same_weights(outcomes[0][0][0], outcomes[1][0][0])


def test_every_row_meets_every_rendering_once(tmp_path):
    data = Data.open("synthetic:20,4,8", "crop-flip")
    with make_dump(teacher_of("tiny-3", data), data, DumpOptions(tmp_path / "a.h5", "all")) as dump:
        cache = open_cache(dump.run())
    seeds = np.stack([cache.seeds(view, range(20)) for view in range(162)])
    assert (np.sort(seeds, 0) == np.arange(162)[:, None]).all()
    assert all(len(np.unique(seeds[view])) > 10 for view in range(162))  # one epoch mixes all crops


@pytest.mark.slow
def test_cached_equals_online_on_digits(tmp_path):
    data = Data.open("digits", None, 0.25)
    network = teacher_of("resnet8", data)
    cache = dumped(tmp_path / "a.h5", data, network, "st+at+mhgd+ft", batch=256)
    for method in ("st+at", "mhgd", "ft"):
        settings = Settings(epochs=2, batch=100)
        teachers = [taught_by(cache, live) for live in (None, network)]
        outcomes = [Student(data, "resnet8", method, settings, teacher).train() for teacher in teachers]
        assert measured(outcomes[0][1]) == measured(outcomes[1][1])
        assert_same_weights(outcomes[0][0][0], outcomes[1][0][0])


def test_another_network_cannot_stand_in_for_the_teacher(same):
    with pytest.raises(TeacherChanged, match="resnet14"):
        taught_by(same.cache, teacher_of("resnet14", same.data))


def batch_of(images):
    rows = torch.arange(len(images))
    return Batch(images, rows % 4, rows.numpy(), len(images))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [5, 33, 64, 512, 2048])
def test_a_linear_layer_rounds_alike_whatever_the_place(width, threads):
    """Odd ones, whose rows begin anywhere; and those of large networks, which libraries cut up."""
    layer = torch.nn.Linear(width, 10)
    rows, order = torch.randn(ROWS, width), torch.randperm(ROWS)
    torch.set_num_threads(threads)
    try:
        with torch.no_grad(), AlignedProducts():
            whole = layer(rows)
            assert torch.equal(layer(rows[order]), whole[order])
    finally:
        torch.set_num_threads(1)
    assert torch.allclose(whole, layer(rows), rtol=1e-4, atol=1e-5)


@functools.cache
def seen(model):
    """A network, images, its shapes, and what it shows: it is asked once about a batch, for all methods."""
    data = Data.open(SPEC, "crop-flip")
    network = teacher_of(model, data)
    every, shown = shapes(network, network.taps, data.image), {}
    asked = LiveTeacher(network, build("+".join(CACHEABLE), every, every), Forward())

    def look(images):
        key = images.numpy().tobytes()
        if key not in shown:
            shown[key] = asked.look(images)
        return shown[key]

    return network, data.train.read(range(7)), every, look


@pytest.mark.parametrize("model", ["resnet8", "wrn-16-2"])
@pytest.mark.parametrize("text", [*CACHEABLE, "at:grid=2x2", "ft:k=0.25"])
def test_rowwise(text, model):
    """The projection of a batch is that of its rows, seen alone or in other company: to the last bit on a CPU."""
    network, images, every, look = seen(model)
    method = build(text, every, every)
    if hasattr(method, "passes"):
        method.passes = 1
    with LiveTeacher(network, method, Forward()) as teacher:
        teacher.look = look
        labelled = {**teacher.looks(images), "targets": batch_of(images).targets}
        method.use(method.prepare(network, lambda: [labelled, labelled]))
        whole = teacher(batch_of(images))
        alone = [teacher(batch_of(images[i : i + 1])) for i in range(7)]
        pairs = [teacher(batch_of(images[[i, 6 - i]])) for i in range(7)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([knowledge[name] for knowledge in alone]), value), name
        assert torch.equal(torch.cat([knowledge[name][:1] for knowledge in pairs]), value), name
