"""Policies behind a geometry replay, whatever surrounds them; erasing is what a slow reference says, to the pixel."""

import json
import math
import pickle
import random
import sys
import zlib

import numpy as np
import pytest
import torch
from reference_views import made_images, made_seeds
from view_cases import assert_workers_render_the_same

import kdcache
from kdcache.batches import Loader
from kdcache.errors import KdcacheError, PipelineChanged, UsageError
from kdcache.jobs import Data
from kdcache.proof.canaries import RECORDED
from kdcache.seeds import POLICY as STREAM
from kdcache.seeds import draw
from kdcache.sources.arrays import ArraySource
from kdcache.views import POLICIES, augmented, enumerate_all, erasing, from_json, open_view, seeds_of
from kdcache.views.augmented import made
from kdcache.views.library import render_elsewhere
from kdcache.views.native import GREY, Centre, Untouched
from kdcache.views.policies import Policy

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
NEEDED = {"timm": "timm:rand-m9-mstd0.5-inc1"}  # which has to be stated
SUFFIXES = [f"+{NEEDED.get(name, name)}" for name in POLICIES]
CHAIN = "".join(SUFFIXES)
QUICK = "+randaugment:n=1,m=5+timm:augmix-m5-w2+erasing:p=0.5"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pixels_depend_on_image_and_seed_alone(suffix):
    view, images, seeds = open_view(f"crop-flip{suffix}", (32, 32)), made_images(24, 32, 32), made_seeds(24)
    rendered = view.render(images, seeds)
    order = torch.from_numpy(np.random.default_rng(0).permutation(24))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert torch.equal(view.render(images[order], seeds[order]), rendered[order])
    alone = [view.render(images[i : i + 1], seeds[i : i + 1]) for i in range(24)]
    assert torch.equal(torch.cat(alone), rendered)
    assert (rendered.dtype, tuple(rendered.shape), type(rendered)) == (torch.uint8, (24, 3, 32, 32), torch.Tensor)
    varied = open_view(f"none{suffix}", (32, 32)).render(images[:1].expand(24, -1, -1, -1), seeds)
    assert len({image.numpy().tobytes() for image in varied}) > 3
    assert torch.equal(images, made_images(24, 32, 32))


def test_a_fresh_process_renders_the_same():
    """Every policy, one after the other, of odd seeds alone."""
    view, given = open_view(f"crop-flip+erasing:p=1+strong{CHAIN}", (32, 32)), (made_images(6, 32, 32), made_seeds(6))
    assert 0 < int((given[1] & 1).sum()) < 6
    assert torch.equal(render_elsewhere(view, *given), view.render(*given))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_either_start_method_render_the_same(method):
    view = open_view(f"crop-flip{CHAIN}+mixup", (32, 32), 60)
    assert_workers_render_the_same(Loader(small_source(), view, 3), method, items=120)


def small_source(split="train") -> ArraySource:
    classes = [str(c) for c in range(10)]
    return ArraySource(split, made_images(60, 32, 32), np.arange(60) % 10, classes, "none", spec="digits")


def test_thread_count_and_generators_do_not_matter_and_are_given_back():
    view, images, seeds = open_view(f"crop-flip{CHAIN}", (32, 32)), made_images(12, 32, 32), made_seeds(12)
    one = view.render(images, seeds)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        assert torch.equal(view.render(images, seeds), one)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_images_of_several_sizes_come_out_in_one():
    view = open_view(f"resized-crop:24{QUICK}", None)
    images = [made_images(1, 40, 30)[0], made_images(1, 25, 60)[0]]
    together = view.render(images, made_seeds(2))
    assert together.shape == (2, 3, 24, 24)
    assert torch.equal(together[1], view.render(images[1:], made_seeds(2)[1:])[0])


@pytest.mark.parametrize("suffix", [*SUFFIXES, CHAIN, "+autoaugment:svhn", "+augmix:alpha=0.5:depth=2"])
@pytest.mark.parametrize("geometry", ["crop-flip", "resized-crop:12"])
def test_it_comes_back_from_its_header_and_from_its_name(geometry, suffix):
    view = open_view(geometry + suffix, (32, 32))
    header = json.loads(json.dumps(view.to_json()))
    assert from_json("cache.h5", header) == view == pickle.loads(pickle.dumps(view))
    assert open_view(view.name.replace("resized-crop", "resized-crop:12"), (32, 32)) == view
    mixed = open_view(f"{geometry}{suffix}+cutmix", (32, 32), 7)
    assert from_json("cache.h5", json.loads(json.dumps(mixed.to_json()))) == mixed
    assert mixed.plain == view


def test_what_it_is_follows_from_its_parts():
    view = open_view("crop-flip+randaugment:2:m=9+timm:3a+erasing", (32, 32))
    assert view.name == "crop-flip+randaugment+timm:3a+erasing"
    assert view.packages == ("torchvision", "torch", "pillow", "timm")
    assert set(view.packages) <= set(RECORDED)
    assert not view.native
    assert view.evaluation() == Untouched((32, 32))
    erased = open_view("resized-crop:24+erasing", None)
    assert (erased.native, erased.packages, erased.evaluation()) == (True, (), Centre((24, 24)))
    with pytest.raises(UsageError, match=r"`views` all.*no end"):
        enumerate_all(view)


@pytest.mark.parametrize("always", ["", "+erasing:p=1"])
@pytest.mark.parametrize("geometry", ["crop-flip", "resized-crop:24"])
def test_every_second_view_is_strong_and_the_others_are_as_without(geometry, always):
    view = open_view(f"{geometry}{always}+strong{QUICK}", (32, 32))
    images, seeds = made_images(20, 32, 32), torch.from_numpy(seeds_of(view, 3, np.arange(20) % 5, np.arange(20)))
    assert torch.equal(seeds & 1, torch.arange(20) % 5 % 2)
    rendered = view.render(images, seeds)
    weak, strong = (open_view(f"{geometry}{always}{more}", (32, 32)).render(images, seeds) for more in ("", QUICK))
    odd = (seeds & 1).bool()
    assert torch.equal(rendered[~odd], weak[~odd])
    assert torch.equal(rendered[odd], strong[odd])
    assert (weak[odd] != strong[odd]).flatten(1).any(1).all()
    assert torch.equal(rendered[7:8], view.render(images[7:8], seeds[7:8]))


def test_weak_and_strong_views_come_back_from_their_header_and_from_their_name():
    for spec in ("crop-flip+strong+erasing", "crop-flip+erasing+strong+randaugment:m=10+erasing:p=1.0"):
        view = open_view(spec, (32, 32))
        header = json.loads(json.dumps(view.to_json()))
        assert from_json("cache.h5", header) == view == pickle.loads(pickle.dumps(view))
        assert open_view(view.name, (32, 32)) == view
        assert (view.name, view.alternates) == (spec, True)
        for weak in (-1, len(view.steps), None, True, 0.0, "0"):
            with pytest.raises(KdcacheError, match=r"cache\.h5"):
                from_json("cache.h5", header | {"weak": weak})


@pytest.mark.parametrize("spec", ["crop-flip+strong", "crop-flip+erasing+strong", "none+strong+strong+erasing"])
def test_strong_alone_says_nothing(spec):
    with pytest.raises(UsageError, match=r"\+strong once.*write it like crop-flip\+strong\+randaugment"):
        open_view(spec, (32, 32))


def test_weak_and_strong_images_are_not_mixed():
    with pytest.raises(UsageError, match=r"weak and strong by turns"):
        open_view("crop-flip+strong+erasing+mixup", (32, 32), 7)
    header = open_view("crop-flip+erasing+mixup", (32, 32), 7).to_json()
    of = open_view("crop-flip+strong+erasing", (32, 32)).to_json()
    with pytest.raises(KdcacheError, match="a known view"):
        from_json("cache.h5", header | {"of": of, "view": of["view"] + "+mixup:1.0"})


def test_steps_do_not_shift_each_other_nor_the_geometry():
    images, seeds = made_images(24, 32, 32), made_seeds(24)
    still = "+jitter:brightness=0,contrast=0,saturation=0"
    plain = open_view("crop-flip", (32, 32)).render(images, seeds)
    assert torch.equal(open_view(f"crop-flip{still}", (32, 32)).render(images, seeds), plain)
    black = torch.zeros_like(images)
    boxes = [open_view(f"none{before}+erasing:1", (32, 32)).render(black, seeds) for before in (still, "+augmix")]
    assert torch.equal(*boxes)
    assert not torch.equal(boxes[0], open_view("none+erasing:1", (32, 32)).render(black, seeds))  # another place in it


def test_three_augment_shows_one_of_three():
    images, seeds = made_images(60, 32, 32), made_seeds(60)
    found = open_view("none+3-augment:jitter=0", (32, 32)).render(images, seeds)
    grey = (found.max(1).values == found.min(1).values).flatten(1).all(1)
    solarised = (found == torch.where(images < 128, images, 255 - images)).flatten(1).all(1)
    blurred = ~(grey | solarised)
    assert min(part.sum() for part in (grey, solarised, blurred)) > 10
    steps = [part[blurred].float().diff(dim=3).abs().mean() for part in (found, images)]
    assert steps[0] < steps[1]


def test_options_reach_the_library():
    images, seeds = made_images(24, 32, 32), made_seeds(24)

    def changed(text):
        return float((open_view(f"none+{text}", (32, 32)).render(images, seeds) != images).float().mean())

    assert changed("randaugment:m=0") < changed("randaugment:n=1") < changed("randaugment:n=6,m=20")
    assert changed("jitter:0,hue=0.0,contrast=0,saturation=0") == 0 < changed("jitter:0,contrast=0,saturation=0,hue=.2")
    assert changed("timm:rand-m9-n1-p0.1") < changed("timm:rand-m9-n3-p1")
    assert changed("augmix:severity=1") < changed("augmix:severity=9")
    assert changed("erasing:0") == 0 < changed("erasing:1,least=.02,most=.05") < changed("erasing:1,least=.2")


STRONGEST = ("timm:rand-m10-n5-p1-inc1", "timm:rand-m15-mmax15-n5-p1-inc1", "timm:augmix-m10", "augmix:severity=10")


@pytest.mark.parametrize("text", STRONGEST)
def test_the_strongest_leave_pixels(text):
    """timm posterises to no bits then, which Pillow refuses since its version 13."""
    images, seeds = made_images(8, 8, 8).repeat(50, 1, 1, 1), made_seeds(400)
    assert open_view(f"none+{text}", (8, 8)).render(images, seeds).shape == images.shape


def test_what_draws_nothing_from_the_generators_does_not_touch_them(monkeypatch):
    """It may run in a thread beside a training that draws."""
    monkeypatch.setattr(augmented, "untouched_generators", None)
    images, seeds = made_images(4, 32, 32), made_seeds(4)
    assert open_view("crop-flip+erasing:p=1+strong+erasing", (32, 32)).render(images, seeds).shape == images.shape


def test_an_error_of_a_library_is_one_line(monkeypatch):
    def fails(image):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(augmented, "made", lambda *_: fails)
    with pytest.raises(
        KdcacheError, match=r"\Aview \+augmix: expected pixels, found RuntimeError first line.*torch.*\Z"
    ):
        open_view("none+augmix", (8, 8)).render(made_images(1, 8, 8), made_seeds(1))


# erasing


def reference_boxes(size, seed, p, least, most, n=0):
    """Word by word: whether, top and left; then ten tries at an area and a ratio of height to width."""
    words = [int(word[0]) for k in range(4) for word in draw(np.int64([seed]), n + k, STREAM)]
    for word in words[4:14]:
        area = size[0] * size[1] * (least + (most - least) * (word >> 16) / 65536)
        number = (word & 0xFFFF) * 1025 >> 16
        ratio = round(65536 * math.exp(math.log(0.3) + math.log(3.3 / 0.3) * number / 1024)) / 65536
        height, width = math.floor(math.sqrt(area * ratio) + 0.5), math.floor(math.sqrt(area / ratio) + 0.5)
        if 0 < height < size[0] and 0 < width < size[1]:
            place = words[1] * (size[0] - height + 1) >> 32, words[2] * (size[1] - width + 1) >> 32
            return (*place, height, width) if words[0] < p * 2**32 else None
    return None


@pytest.mark.parametrize("size", [(32, 32), (9, 13), (2, 40), (1, 1)])
@pytest.mark.parametrize("options", [(0.25, 0.02, 0.33), (1.0, 0.4, 0.9)])
def test_erasing_is_the_reference(size, options):
    images, seeds = made_images(40, *size), made_seeds(40)
    p, least, most = options
    found = open_view(f"none+erasing:{p},least={least},most={most}", size).render(images, seeds)
    for image, seed, got in zip(images.clone(), seeds.tolist(), found, strict=True):
        if box := reference_boxes(size, seed, *options):
            top, left, height, width = box
            image[:, top : top + height, left : left + width] = GREY
        assert torch.equal(got, image)


def test_as_many_are_erased_as_asked_for():
    found = open_view("none+erasing:0.25", (32, 32)).render(
        torch.zeros(4000, 3, 32, 32, dtype=torch.uint8), made_seeds(4000)
    )
    area = (found[:, 0] == GREY).flatten(1).float().mean(1)
    assert 0.22 < (area > 0).float().mean() < 0.28
    assert area[area > 0].min() > 0.02 - 0.01
    assert area.max() < 0.33 + 0.03


def test_pixels_of_our_own_never_change():
    """Caches that exist would no longer replay: whoever changes these arithmetics makes another policy."""
    images, seeds = made_images(32, 32, 32), made_seeds(32, key=5)
    found = [open_view(f"crop-flip+erasing{more}", (32, 32)).render(images, seeds) for more in ("", "+erasing:1")]
    assert [zlib.crc32(pixels.numpy().tobytes()) for pixels in found] == GOLDEN
    assert zlib.crc32((erasing.RATIOS * 65536).astype("<i8").tobytes()) == RATIOS


GOLDEN, RATIOS = [0x33833A16, 0xFF774149], 0x10FC139E


def test_what_a_gpu_does_gives_the_same_shape():
    view, images, seeds = open_view("crop-flip+erasing:0.5", (32, 32)), made_images(8, 32, 32), made_seeds(8)
    nowhere = view.render(images.to("meta"), seeds)  # where whatever is left on the CPU would clash
    assert (nowhere.shape, nowhere.dtype, nowhere.device.type) == (images.shape, torch.uint8, "meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("spec", ["crop-flip+erasing:0.5", "resized-crop:24+erasing", "none+erasing:1+erasing"])
def test_pixels_are_the_same_on_a_gpu(spec):
    view, images, seeds = open_view(spec, (32, 32)), made_images(64, 32, 32), made_seeds(64)
    rendered = view.render(images.cuda(), seeds)
    assert rendered.is_cuda
    assert torch.equal(rendered.cpu(), view.render(images, seeds))


# what is refused

WRONG = [
    ("crop-flip+randaugmnt", "did you mean randaugment?"),
    ("resized-crop:24+randaugmnt:n=2", "found 'randaugmnt:n=2'"),
    ("crop-flip+mixup+erasing", "found 'mixup'; mixing comes last"),
    ("crop-flip+erasing:p=2", "+erasing, p: expected a number from 0 to 1, found 2"),
    ("crop-flip+erasing:p=nan", "+erasing, p: expected a number from 0 to 1, found nan"),
    ("crop-flip+erasing:q=2", "+erasing: expected one of p, least, most, found 'q'"),
    ("crop-flip+erasing:p=1,p=1", "+erasing: expected one p, found two"),
    ("crop-flip+erasing:0.5,least=.5,most=.2", "expected least, and most not below it, found 0.5 and 0.2"),
    ("crop-flip+randaugment:n=x", "+randaugment, n: expected a whole number from 1 to 10, found 'x'"),
    ("crop-flip+randaugment:n=99999999999", "+randaugment, n: expected a whole number from 1 to 10"),
    ("crop-flip+randaugment:2,9", "+randaugment: expected option=value, found '9'"),
    ("crop-flip+trivialaugment:3", "+trivialaugment: expected no options"),
    ("crop-flip+autoaugment:svh", "+autoaugment, policy: expected one of imagenet, cifar10, svhn, found 'svh'"),
    ("crop-flip+timm", "+timm: expected its config, found none"),
    ("crop-flip+timm:rand-m9-inc", "such as m9, n2, mstd0.5, inc1, found 'rand-m9-inc'"),
    ("crop-flip+timm:v0-m9", "timm:v0-m9: expected settings that v0 has"),
    ("crop-flip+timm:rand-tnone", "found 'rand-tnone'"),
    ("crop-flip" + "+erasing" * 17, "expected at most 16 policies, found 17"),
    ("torchvision:views:make+erasing", "found"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "finding"), WRONG)
def test_what_cannot_be_a_policy_is_refused_in_one_line(spec, finding):
    with pytest.raises(UsageError) as caught:
        open_view(spec, (32, 32))
    assert finding in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(KdcacheError, match=r"pip install 'kdcache\[timm\]'"):
        open_view("crop-flip+timm:rand-m1", (32, 32))


HEADER = {
    "view": "none+erasing", "size": [8, 8], "base": {"view": "none", "size": [8, 8]},
    "policies": [["erasing", {"p": 0.25, "least": 0.02, "most": 0.33}]],
}  # fmt: skip
LIES = [
    {"policies": []},
    {"policies": 3},
    {"policies": [["swirl", {}]]},
    {"policies": [["erasing", {"p": True, "least": 0.02, "most": 0.33}]]},
    {"policies": [["erasing", {"p": 0.25, "least": 0.02, "most": 0.33, "more": 1}]]},
    {"policies": [["randaugment", {"n": 10**9, "m": 9}]]},
    {"policies": HEADER["policies"] * 17},
    {"size": [8, 9]},
    {"base": {"view": "albumentations", "size": [8, 8], "pipeline": {}}},
    {"base": None},
    {"more": 1},
]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_strange_header_is_refused(lie):
    assert from_json("x.h5", HEADER) == open_view("none+erasing", (8, 8))
    with pytest.raises(KdcacheError, match=r"x\.h5: expected a known view"):
        from_json("x.h5", HEADER | lie)


# in a dump


@pytest.fixture
def small():
    return lambda spec: Data(small_source(), small_source("eval"), open_view(spec, (32, 32), 60))


@pytest.mark.slow
def test_a_dump_replays_with_any_number_of_workers(small, dump, tmp_path):
    data = small(f"crop-flip{QUICK}+mixup")
    files = [dump(tmp_path / f"{workers}.h5", data=data, network=student(data), workers=workers) for workers in (0, 2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    cache = kdcache.open_cache(files[0])
    assert from_json("cache", cache.meta["view"]) == data.view
    assert {"torchvision", "timm"} <= set(cache.meta["libraries"])


def student(data):
    return data.network("tiny-2", 0).eval()


@pytest.mark.slow
def test_a_policy_that_does_not_replay_is_refused_by_a_dump(small, dump, tmp_path, monkeypatch):
    own = random.Random(0)
    monkeypatch.setitem(
        POLICIES, "trivialaugment", Policy("", lambda side: lambda image: image.rotate(own.randrange(360)))
    )
    made.cache_clear()
    with pytest.raises(PipelineChanged, match="expected a rendering that replays"):
        dump(tmp_path / "x.h5", data=small("crop-flip+trivialaugment"))
    assert not list(tmp_path.glob("x.h5*"))
    made.cache_clear()
