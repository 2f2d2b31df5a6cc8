"""A native view gives the same pixels for a seed whatever surrounds it, and those are what a slow reference says."""

import json
import zlib

import numpy as np
import pytest
import torch
from reference_views import made_images, made_seeds, reference, reference_crop

from kdcache.errors import KdcacheError, UsageError
from kdcache.views import VIEWS, crop, enumerate_all, from_json, open_view, resize, seeds_of
from kdcache.views.native import Centre, Crop, ResizedCrop, Untouched

NATIVE = [name for name, (kind, _) in VIEWS.items() if kind.native]
SIZED = ["resized-crop:12", "centre:12"]
SIZES = [(32, 32), (8, 8), (9, 13)]  # rows of whole 64-bit words and others


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NATIVE)
def test_pixels_are_the_reference(name, size):
    images, seeds = made_images(24, *size), made_seeds(24)
    view = open_view(name, size)
    rendered = view.render(images, seeds)
    assert rendered.dtype == torch.uint8
    assert rendered.is_contiguous()
    for image, seed, got in zip(images, seeds.tolist(), rendered, strict=True):
        assert np.array_equal(got.numpy(), reference(view, image.numpy(), seed))


@pytest.mark.parametrize("spec", ["resized-crop:7", "centre:7", "resized-crop:20", "centre:3"])
@pytest.mark.parametrize("size", [(9, 13), (31, 17), (3, 50)])
def test_resizing_is_the_reference_when_shrinking_and_growing(spec, size):
    images, seeds = made_images(12, *size), made_seeds(12)
    view = open_view(spec, size)
    for image, seed, got in zip(images, seeds.tolist(), view.render(images, seeds), strict=True):
        assert np.array_equal(got.numpy(), reference(view, image.numpy(), seed))


@pytest.mark.parametrize("name", NATIVE)
def test_pixels_depend_on_image_and_seed_alone(name):
    images, seeds = made_images(40, 32, 32), made_seeds(40)
    view = open_view(name, (32, 32))
    whole = view.render(images, seeds)
    order = torch.from_numpy(np.random.default_rng(0).permutation(40))
    assert torch.equal(view.render(images[order], seeds[order]), whole[order])
    for size in (1, 7, 40):
        parts = [view.render(images[i : i + size], seeds[i : i + size]) for i in range(0, 40, size)]
        assert torch.equal(torch.cat(parts), whole)
    same = view.render(images[:1].expand(5, -1, -1, -1), seeds[:1].expand(5))
    assert all(torch.equal(image, whole[0]) for image in same)


@pytest.mark.parametrize("name", NATIVE)
def test_rendering_leaves_its_input_alone(name):
    images, seeds = made_images(16, 32, 32), made_seeds(16)
    before = images.clone(), seeds.clone()
    view = open_view(name, (32, 32))
    view.render(images, seeds)
    assert torch.equal(images, before[0])
    assert torch.equal(seeds, before[1])
    strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels last
    assert torch.equal(view.render(strided, seeds), view.render(images, seeds))


@pytest.mark.parametrize("name", NATIVE)
def test_thread_count_does_not_matter(name):
    images, seeds = made_images(64, 32, 32), made_seeds(64)
    view = open_view(name, (32, 32))
    one = view.render(images, seeds)
    torch.set_num_threads(2)
    try:
        assert torch.equal(view.render(images, seeds), one)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("spec", SIZED)
def test_images_of_several_sizes_are_rendered_as_each_alone(spec):
    images = [
        made_images(1, height, width, key)[0]
        for key, (height, width) in enumerate([(30, 20), (12, 12), (5, 60), (1, 1)])
    ]
    view, seeds = open_view(spec, None), made_seeds(4)
    together = view.render(images, seeds)
    assert together.shape == (4, 3, 12, 12)
    for i, image in enumerate(images):
        assert torch.equal(view.render(image[None], seeds[i : i + 1])[0], together[i])
        assert torch.equal(view.render([image], seeds[i : i + 1])[0], together[i])


@pytest.mark.parametrize("name", [name for name in NATIVE if name not in ("resized-crop", "centre")])
def test_a_view_of_one_size_refuses_several_by_name(name):
    with pytest.raises(UsageError, match=f"view {name}: expected images of one size, found images of several sizes"):
        open_view(name, None)
    view, seeds = open_view(name, (8, 8)), made_seeds(2)
    with pytest.raises(UsageError, match=f"view {name}: expected an image of 8 x 8, found an image of 9 x 8"):
        view.render([made_images(1, 8, 8)[0], made_images(1, 9, 8)[0]], seeds)
    with pytest.raises(UsageError, match="found an image of 16 x 16"):
        view.render(made_images(2, 16, 16), seeds)
    assert torch.equal(view.render(list(made_images(2, 8, 8)), seeds), view.render(made_images(2, 8, 8), seeds))


@pytest.mark.parametrize("name", NATIVE)
def test_evaluation_has_no_randomness(name):
    images, seeds = made_images(8, 32, 32), made_seeds(8)
    view = open_view(name, (32, 32))
    evaluation = view.evaluation()
    rendered = evaluation.render(images, seeds)
    assert evaluation.size == view.size
    assert evaluation.evaluation() == evaluation
    assert torch.equal(rendered, evaluation.render(images, seeds + 1))
    if name in ("none", "crop", "crop-flip", "crop-flip-cutout"):
        assert torch.equal(rendered, images)


@pytest.mark.parametrize("spec", [*NATIVE, *SIZED])
def test_a_view_comes_back_from_its_header(spec):
    view = open_view(spec, (32, 32))
    views = [view, view.evaluation(), *([enumerate_all(view)] if view.count else [])]
    for each in views:
        back = from_json("cache.h5", json.loads(json.dumps(each.to_json())))
        assert back == each
        assert (back.name, back.count, back.size) == (each.name, each.count, each.size)


CROP = {"view": "crop-flip", "size": [8, 8], "pad": 4, "flip": True, "cutout": 0}
STRANGE = [
    {},
    [],
    {"view": "swirl", "size": [8, 8]},
    {"view": 3, "size": [8, 8]},
    {"view": "none", "size": [8]},
    {"view": "none", "size": [8, 8, 8]},
    {"view": "none", "size": [8, -8]},
    {"view": "centre", "size": [8, 1 << 40]},
    {"view": "resized-crop", "size": [True, "8"]},
    {"view": "crop", "size": [8, 8]},
    {"view": "albumentations", "size": [8, 8], "pipeline": 3},
    {"view": "albumentations", "size": [8, 8], "pipeline": {}, "source_size": [8, 0]},
    *(
        CROP | change
        for change in ({"pad": -1}, {"pad": "4"}, {"flip": False}, {"flip": 1}, {"cutout": 4}, {"view": "crops"})
    ),
    CROP | {"view": "crop-flip-cutout", "cutout": 4, "enumerated": True},
    CROP | {"rotate": 90},
]


@pytest.mark.parametrize("header", STRANGE, ids=str)
def test_a_strange_header_is_refused(header):
    with pytest.raises(KdcacheError, match=r"x\.h5: expected a known view"):
        from_json("x.h5", header)


STRANGE_SPECS = ["", "swirl", "crop:4", "none:1", "albumentations", "centre:99999999999", "centre:-3"]


@pytest.mark.parametrize("spec", [*STRANGE_SPECS, "resized-crop:0", "resized-crop:x", "resized-crop:9999"])
def test_a_strange_view_is_refused(spec):
    with pytest.raises(UsageError, match="`augment`"):
        open_view(spec, (32, 32))


def test_a_typo_gets_a_hint():
    with pytest.raises(UsageError, match="did you mean crop-flip"):
        open_view("crop-flp", (32, 32))


@pytest.mark.parametrize(("name", "count"), [("crop", 81), ("crop-flip", 162)])
def test_an_enumeration_shows_every_rendering_once(name, count):
    view = enumerate_all(open_view(name, (8, 8)))
    assert view.count == count
    rows, orders = 3, set()
    images = made_images(rows, 8, 8)
    for row in range(rows):
        seeds = seeds_of(view, 7, np.arange(count), np.full(count, row))
        orders.add(tuple(seeds.tolist()))
        assert sorted(seeds.tolist()) == list(range(count))
        rendered = view.render(images[row].expand(count, -1, -1, -1), torch.from_numpy(seeds))
        found = {image.numpy().tobytes() for image in rendered}
        flips = (0, 1) if view.flip else (0,)
        places = [(top, left, flip) for top in range(9) for left in range(9) for flip in flips]
        assert found == {reference_crop(images[row].numpy(), *place, 4).tobytes() for place in places}
        assert len(found) == count
    assert len(orders) == rows  # an order of its own for each row


def test_an_enumeration_starts_over():
    view = enumerate_all(open_view("crop", (8, 8)))
    rows = np.arange(50)
    assert np.array_equal(seeds_of(view, 0, 81 + 5, rows), seeds_of(view, 0, 5, rows))


def test_one_epoch_of_an_enumeration_mixes_all_crops():
    seeds = seeds_of(enumerate_all(open_view("crop-flip", (8, 8))), 0, 0, np.arange(16_200))
    counts = np.bincount(seeds, minlength=162)
    assert counts.min() > 50
    assert counts.max() < 150


@pytest.mark.parametrize("name", ["crop-flip-cutout", "resized-crop:8"])
def test_what_has_no_end_is_not_enumerated(name):
    with pytest.raises(UsageError, match=r"`views` all.*no end"):
        enumerate_all(open_view(name, (8, 8)))


GOLDEN = {
    "none": 0x675F0BD4,
    "crop": 0x2CF41A4D,
    "crop-flip": 0x64E40CF5,
    "crop-flip-cutout": 0x1E5E69CC,
    "resized-crop": 0x9CF14903,
    "centre": 0xDFDA7E21,
    "resized-crop:12": 0xE6B66F90,
    "centre:12": 0xEEF4FF09,
    "all crop-flip": 0x75264D99,
    "ratios": 0x85BB438D,
}


@pytest.mark.parametrize("spec", [*NATIVE, *SIZED, "all crop-flip"])
def test_pixels_never_change(spec):
    """Caches that exist would no longer replay: whoever changes these arithmetics makes another view."""
    images, seeds = made_images(32, 32, 32), made_seeds(32, key=5)
    view = open_view(spec.removeprefix("all "), (32, 32))
    if spec.startswith("all"):
        view, seeds = enumerate_all(view), torch.arange(0, 160, 5)
    assert zlib.crc32(view.render(images, seeds).numpy().tobytes()) == GOLDEN[spec]


def test_the_table_of_ratios_never_changes():
    assert (resize.RATIOS[0], resize.RATIOS[512], resize.RATIOS[1024]) == (49152 / 65536, 1, 87381 / 65536)
    assert zlib.crc32((resize.RATIOS * 65536).astype("<i8").tobytes()) == GOLDEN["ratios"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spec", [*NATIVE, *SIZED])
def test_what_a_gpu_does_gives_the_same_pixels(spec, size, monkeypatch):
    """Its ways of copying, tried on the CPU; and on no device at all, where whatever is left on the CPU would clash."""
    images, seeds, view = made_images(24, *size), made_seeds(24), open_view(spec, size)
    right = view.render(images, seeds)
    monkeypatch.setattr(crop, "windows", crop.gathered)
    monkeypatch.setattr(resize, "in_place", lambda images: images)
    assert torch.equal(view.render(images, seeds), right)
    monkeypatch.undo()
    nowhere = view.render(images.to("meta"), seeds)
    assert (nowhere.shape, nowhere.dtype, nowhere.device.type) == (right.shape, torch.uint8, "meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("spec", [*NATIVE, *SIZED])
def test_pixels_are_the_same_on_a_gpu(spec):
    images, seeds = made_images(64, 32, 32), made_seeds(64)
    view = open_view(spec, (32, 32))
    rendered = view.render(images.cuda(), seeds)
    assert rendered.is_cuda
    assert torch.equal(rendered.cpu(), view.render(images, seeds))


@pytest.mark.parametrize("kind", [Crop, ResizedCrop, Centre, Untouched])
def test_every_native_view_says_so(kind):
    assert kind.native
