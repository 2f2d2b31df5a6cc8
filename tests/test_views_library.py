"""Pipelines of albumentations replay from stored seeds, or are refused in one line."""

import json
import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference_views import made_images, made_seeds
from view_cases import assert_workers_render_the_same

from kdcache.batches import Loader
from kdcache.errors import KdcacheError, PipelineChanged, UsageError
from kdcache.jobs import Data
from kdcache.sources.arrays import ArraySource
from kdcache.views import from_json, open_view
from kdcache.views.library import render_elsewhere
from kdcache.views.native import Centre, Untouched

A = pytest.importorskip("albumentations")

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
SQUARE = {"num_holes_range": (1, 2), "hole_height_range": (4, 8), "hole_width_range": (4, 8), "p": 1}
PARTS = [
    A.PadIfNeeded(40, 40, border_mode=0),
    A.RandomCrop(32, 32),
    A.HorizontalFlip(p=0.5),
    A.OneOf([A.RandomBrightnessContrast(p=1), A.GaussNoise(p=1), A.Sequential([A.Posterize(p=1)])], p=0.8),
    A.SomeOf([A.VerticalFlip(p=1), A.Transpose(p=1)], n=1, p=0.5),
    A.CoarseDropout(**SQUARE),
]
RESIZED = [A.RandomResizedCrop((24, 20)), A.HorizontalFlip(p=0.5)]


@pytest.fixture
def saved(tmp_path):
    """Saves a pipeline, or a text, and gives the view's name."""

    def save(pipeline, name="pipeline.json") -> str:
        path = tmp_path / name
        if isinstance(pipeline, str | bytes):
            path.write_bytes(pipeline if isinstance(pipeline, bytes) else pipeline.encode())
        else:
            A.save(A.Compose(pipeline), path, data_format="yaml" if name.endswith("yaml") else "json")
        return f"albumentations:{path}"

    return save


@pytest.fixture
def view(saved):
    return open_view(saved(PARTS), (32, 32))


@pytest.fixture
def rendered(view):
    return view.render(made_images(24, 32, 32), made_seeds(24))


def test_pixels_depend_on_image_and_seed_alone(view, rendered):
    images, seeds = made_images(24, 32, 32), made_seeds(24)
    order = torch.from_numpy(np.random.default_rng(0).permutation(24))
    assert torch.equal(view.render(images[order], seeds[order]), rendered[order])
    alone = [view.render(images[i : i + 1], seeds[i : i + 1]) for i in range(24)]
    assert torch.equal(torch.cat(alone), rendered)
    assert torch.equal(view.render(list(images), seeds), rendered)
    varied = view.render(images[:1].expand(24, -1, -1, -1), seeds)
    assert len({image.numpy().tobytes() for image in varied}) > 20
    assert torch.equal(images, made_images(24, 32, 32))


def test_a_fresh_process_renders_the_same(view, rendered):
    assert torch.equal(
        render_elsewhere(view, made_images(4, 32, 32)[:4], made_seeds(4)),
        view.render(made_images(4, 32, 32), made_seeds(4)),
    )


def test_flips_and_crops_are_independent(saved):
    """Compose(seed=) gives every transform the same stream, so that a flip would go with one side of the crop."""
    view = open_view(saved([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]), (2, 2))
    image = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8).expand(400, 3, 2, 2)
    corners = view.render(image, made_seeds(400))[:, 0, 0, 0]
    assert torch.bincount(corners.long(), minlength=4).min() > 60


def test_json_and_yaml_are_the_same_view(saved, view):
    assert open_view(saved(PARTS, "pipeline.yaml"), (32, 32)) == view


def test_it_comes_back_from_its_header(view, rendered):
    back = from_json("cache.h5", json.loads(json.dumps(view.to_json())))
    assert back == view
    assert back.evaluation() == view.evaluation() == Untouched((32, 32))
    assert torch.equal(back.render(made_images(24, 32, 32), made_seeds(24)), rendered)


def test_the_size_of_the_source_decides_on_evaluation_alone(saved):
    spec, images, seeds = saved(RESIZED), made_images(6, 24, 20), made_seeds(6)
    known, unknown = open_view(spec, (24, 20)), open_view(spec, None)
    assert known.size == unknown.size == (24, 20)
    assert torch.equal(known.render(images, seeds), unknown.render(images, seeds))
    assert known.evaluation() == Untouched((24, 20))
    assert unknown.evaluation() == Centre((24, 20))
    for view in (known, unknown):
        assert from_json("cache.h5", view.to_json()).evaluation() == view.evaluation()


def test_images_of_several_sizes_come_out_in_one(saved):
    view = open_view(saved(RESIZED), None)
    images = [made_images(1, 40, 30)[0], made_images(1, 25, 60)[0]]
    together = view.render(images, made_seeds(2))
    assert torch.equal(together[1], view.render(images[1:], made_seeds(2)[1:])[0])


@pytest.mark.parametrize(
    ("tail", "names"),
    [
        ([A.Normalize(), A.ToTensorV2()], "Normalize, ToTensorV2"),
        ([A.ToFloat()], "ToFloat"),
        ([A.Compose([A.NoOp(), A.Normalize()])], "Normalize"),
    ],
)
def test_trailing_normalisation_is_taken_off_with_a_notice(saved, rendered, tail, names):
    view = open_view(saved([*PARTS, *tail]), (32, 32))
    assert f"took off {names}:" in view.notice
    if len(tail) > 1:
        assert torch.equal(view.render(made_images(24, 32, 32), made_seeds(24)), rendered)


def test_no_notice_without_cause(view):
    assert not view.notice


def broken(change) -> str:
    pipeline = A.to_dict(A.Compose(PARTS))
    change(pipeline["transform"])
    return json.dumps(pipeline)


@pytest.mark.parametrize(
    ("pipeline", "finding"),
    [
        ([A.ToFloat(), A.HorizontalFlip()], "expected uint8 RGB pixels, found float32"),
        ([A.ToGray(num_output_channels=1, p=1)], "expected uint8 RGB pixels, found uint8"),
        ([A.RandomScale(p=1)], "expected images of one size, found 2"),
        ([A.RandomCrop(64, 64)], "expected a pipeline that takes images of 32 x 32, found CropSizeError"),
        (broken(lambda t: t["transforms"][5].update(max_holes=3)), "'max_holes' are not valid for transform Coarse"),
        (broken(lambda t: t["transforms"][1].update(padding=3)), "'padding' are not valid for transform RandomCrop"),
        (broken(lambda t: t["transforms"][2].pop("p")), "HorizontalFlip has no 'p' parameter"),
        (broken(lambda t: t["transforms"][2].update(__class_fullname__="NoSuchThing")), "found KeyError 'NoSuchThing'"),
        (broken(lambda t: t["transforms"].append(3)), "expected a pipeline as albumentations saves it"),
        (broken(lambda t: t["transforms"][1].update(height=-1)), "expected transforms of the installed version"),
        ("", "expected a pipeline as albumentations saves it"),
        ("[1, 2]", "found ValueError a list without a transform in it"),
        ("{not json", "expected a pipeline as albumentations saves it"),
        (b"\x89PNG\xff\x00", "can't decode byte"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_view_is_refused_in_one_line(saved, pipeline, finding):
    spec = saved(pipeline)
    with pytest.raises(UsageError) as caught:
        open_view(spec, (32, 32))
    assert finding in str(caught.value)
    assert str(caught.value).startswith(f"{spec}: expected ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.json", "", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(UsageError, match=r"found (No such file|Is a directory)"):
        open_view(f"albumentations:{tmp_path / name}", (32, 32))


def test_yaml_that_is_none_is_refused(saved):
    with pytest.raises(UsageError, match="as albumentations saves it"):
        open_view(saved("{a: [", "pipeline.yaml"), (32, 32))


def test_a_pipeline_without_a_size_is_refused_where_images_differ(saved):
    with pytest.raises(UsageError, match="expected images of one size, found 900 x 1200 and 1024 x 1024"):
        open_view(saved([A.HorizontalFlip()]), None)


def test_another_size_than_at_first_is_refused(saved):
    view = open_view(saved([A.HorizontalFlip()]), (32, 32))
    with pytest.raises(UsageError, match="expected images of 32 x 32, found uint8"):
        view.render(made_images(1, 30, 32), made_seeds(1))


def draws_from(generator):
    """A transform's `apply` that adds noise from a generator which albumentations does not seed."""
    return lambda self, img, **_: img ^ np.uint8(generator() * 255)


GLOBAL = {"numpy": np.random.rand, "python": random.random, "torch": lambda: torch.rand(1).item()}


@pytest.mark.parametrize("name", GLOBAL)
def test_the_global_generators_are_seeded_and_restored(saved, monkeypatch, name):
    monkeypatch.setattr(A.InvertImg, "apply", draws_from(GLOBAL[name]))
    view = open_view(saved([A.InvertImg(p=1)]), (4, 4))
    images, seeds = made_images(12, 4, 4), made_seeds(12)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = view.render(images, seeds)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.equal(view.render(images.flip(0), seeds.flip(0)).flip(0), first)
    assert len({image.numpy().tobytes() for image in first ^ images}) > 6


def test_generators_are_restored_after_an_error(view):
    state = random.getstate()
    with pytest.raises(KdcacheError):
        view.render(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), made_seeds(1))
    assert random.getstate() == state


def small_data(view) -> Data:
    images = made_images(120, 32, 32)
    parts = (
        ArraySource(split, images, np.arange(120) % 10, [str(c) for c in range(10)], "none")
        for split in ("train", "eval")
    )
    train, held_out = parts
    train.spec = held_out.spec = "digits"
    return Data(train, held_out, view)


def test_a_generator_of_its_own_is_refused_by_a_dump(saved, monkeypatch, dump, tmp_path):
    monkeypatch.setattr(A.InvertImg, "apply", draws_from(np.random.default_rng(0).random))
    view = open_view(saved([A.InvertImg(p=1)]), (32, 32))
    with pytest.raises(PipelineChanged, match="view albumentations: expected a rendering that replays"):
        dump(tmp_path / "x.h5", data=small_data(view))
    assert not list(tmp_path.glob("x.h5*"))


@pytest.mark.slow
def test_what_a_fresh_process_renders_otherwise_is_refused_by_a_dump(saved, monkeypatch, dump, tmp_path):
    monkeypatch.setattr(A.InvertImg, "apply", lambda self, img, **_: img)
    view = open_view(saved([A.InvertImg(p=1)]), (32, 32))
    with pytest.raises(PipelineChanged, match="expected a rendering that replays"):
        dump(tmp_path / "x.h5", data=small_data(view))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_either_start_method_render_the_same(view, method):
    assert_workers_render_the_same(Loader(small_data(view).train, view, 3), method)


def test_an_error_in_a_worker_keeps_its_name_and_its_one_line(view):
    data = small_data(replace(view, size=(31, 32)))
    loader = Loader(data.train, data.view, 0, workers=1)
    with pytest.raises(UsageError, match=r"\A.*expected images of 31 x 32.*\Z"):
        list(loader.run([np.arange(4)]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parts", "least"),
    [
        ("crop-flip", PARTS[:3], 6),
        (
            "crop-flip-cutout",
            [*PARTS[:3], A.CoarseDropout(hole_height_range=(16, 16), hole_width_range=(16, 16), p=1)],
            6,
        ),
        ("resized-crop", [A.RandomResizedCrop((32, 32)), A.HorizontalFlip(p=0.5)], 2.5),
    ],
)
def test_a_native_view_is_many_times_faster(saved, name, parts, least):
    """By processor time, alternating; it is 10 to 13, 14 to 18 and 4 to 5 times on an idle core."""
    images, rows = made_images(2000, 32, 32), np.random.default_rng(0)
    labels, classes = np.zeros(2000, int), ["all"]
    source = ArraySource("train", images, labels, classes, "none")
    loaders = [Loader(source, open_view(spec, (32, 32)), 0) for spec in (name, saved(parts))]
    seconds = np.zeros((12, 2))
    for times in seconds:
        for i, loader in enumerate(loaders):
            plan = [rows.permutation(2000)[:256] for _ in range(1 if i else 6)]
            started = time.process_time()
            for items in plan:
                loader.images(items)
            times[i] = (time.process_time() - started) / len(plan)
    ours, theirs = np.median(seconds[2:], 0)
    assert theirs / ours > least, f"{256 / ours:.0f} and {256 / theirs:.0f} images/s"
