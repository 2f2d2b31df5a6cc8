"""A native view gives the same pixels for a seed whatever surrounds it, and those are what a slow reference says."""

import json
import math
import zlib

import numpy as np
import pytest
import torch

from kdcache.errors import KdcacheError, UsageError
from kdcache.seeds import ERASING, GEOMETRY, draw, keyed, sample_seeds
from kdcache.views import VIEWS, enumerate_all, from_json, open_view, seeds_of
from kdcache.views.crop import gathered, windows
from kdcache.views.native import GREY, Centre, Crop, Enumerated, ResizedCrop, Untouched
from kdcache.views.resize import RATIOS, average, centre_boxes, random_boxes, resize

NATIVE = [name for name in VIEWS if name != "albumentations"]
SIZED = ["resized-crop:12", "centre:12"]
SIZES = [(32, 32), (8, 8), (9, 13)]  # rows of whole 64-bit words and others


def made_images(n: int, height: int, width: int, key: int = 0) -> torch.Tensor:
    """Noise over a gradient, the same on every machine."""
    words = keyed(key, np.arange(n * 3 * height * width, dtype=np.int64), use=4)[0]
    ramp = np.arange(height)[:, None] * 160 // height + np.arange(width) * 60 // width
    return torch.from_numpy(((words.reshape(n, 3, height, width) % 36) + ramp).astype(np.uint8))


def made_seeds(n: int, key: int = 0) -> torch.Tensor:
    return torch.from_numpy(sample_seeds(key, np.zeros(n, np.int64), np.arange(n)))


# what a slow reader of the definition would write


def reference_crop(image, top, left, flip, pad):
    _, height, width = image.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            from_y, from_x = y + top - pad, (width - 1 - x if flip else x) + left - pad
            if 0 <= from_y < height and 0 <= from_x < width:
                out[:, y, x] = image[:, from_y, from_x]
    return out


def reference_line(length: int, out: int) -> list[tuple[int, int, int]]:
    """For every place of a line the two places it comes from, and the second one's weight in 1/128."""
    found = []
    for i in range(out):
        centre = math.floor((i + 0.5) * length / out * 128) - 64
        centre = min(max(centre, 0), (length - 1) * 128)
        found.append((centre // 128, min(centre // 128 + 1, length - 1), centre % 128))
    return found


def reference_resize(image, box, flip, size):
    top, left, height, width = box
    image = image[:, top : top + height, left : left + width].astype(int)
    k = min(height // size[0], width // size[1])
    if k > 1:
        image = image[:, height % k // 2 :, width % k // 2 :]
        cells = [
            [image[:, y * k : y * k + k, x * k : x * k + k] for x in range(width // k)] for y in range(height // k)
        ]
        image = np.array([[(c.sum((1, 2)) + k * k // 2) // (k * k) for c in row] for row in cells]).transpose(2, 0, 1)
    rows = [
        ((128 - w) * image[:, a] + w * image[:, b] + 64) // 128 for a, b, w in reference_line(image.shape[1], size[0])
    ]
    down = np.stack(rows, 1)
    line = [
        ((128 - w) * down[:, :, a] + w * down[:, :, b] + 64) // 128
        for a, b, w in reference_line(image.shape[2], size[1])
    ]
    across = np.stack(line, 2)
    return (across[:, :, ::-1] if flip else across).astype(np.uint8)


def reference(view, image: np.ndarray, seed: int) -> np.ndarray:
    seed = np.int64([seed])
    geometry = [int(word[0]) for word in draw(seed, 0, GEOMETRY)]
    if isinstance(view, Untouched):
        return image
    if isinstance(view, Crop):
        side = 2 * view.pad + 1
        top, left, flip = geometry[0] * side >> 32, geometry[1] * side >> 32, geometry[2] >> 31 if view.flip else 0
        out = reference_crop(image, top, left, flip, view.pad)
        if view.cutout:
            y, x = (int(word[0]) * n >> 32 for word, n in zip(draw(seed, 0, ERASING), image.shape[1:], strict=False))
            for a in range(y - view.cutout // 2, y + view.cutout // 2):
                for b in range(x - view.cutout // 2, x + view.cutout // 2):
                    if 0 <= a < image.shape[1] and 0 <= b < image.shape[2]:
                        out[:, a, b] = GREY
        return out
    height, width = (np.array([side]) for side in image.shape[1:])
    if isinstance(view, Centre):
        boxes, flip = centre_boxes(height, width), 0
    else:
        boxes, flip = random_boxes(height, width, seed)[0], geometry[2] >> 31
    return reference_resize(image, [int(v[0]) for v in boxes], flip, view.size)


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


@pytest.mark.parametrize(
    "header", [{}, {"view": "swirl", "size": [8, 8]}, {"view": "crop", "size": [8]}, {"view": 3, "size": 3}]
)
def test_a_strange_header_is_refused(header):
    with pytest.raises(KdcacheError, match=r"x\.h5: expected a known view"):
        from_json("x.h5", header)


@pytest.mark.parametrize(
    "spec", ["swirl", "crop:4", "none:1", "resized-crop:0", "resized-crop:x", "resized-crop:9999", "centre:-3", ""]
)
def test_a_strange_view_is_refused(spec):
    with pytest.raises(UsageError, match="--augment"):
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
        flips = (0, 1) if view.of.flip else (0,)
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
    with pytest.raises(UsageError, match=r"--views all.*no end"):
        enumerate_all(open_view(name, (8, 8)))


GOLDEN = {}


@pytest.mark.parametrize("spec", [*NATIVE, *SIZED, "all crop-flip"])
def test_pixels_never_change(spec):
    """Caches that exist would no longer replay: whoever changes these arithmetics makes another view."""
    images, seeds = made_images(32, 32, 32), made_seeds(32, key=5)
    view = open_view(spec.removeprefix("all "), (32, 32))
    if spec.startswith("all"):
        view, seeds = enumerate_all(view), torch.arange(0, 160, 5)
    assert zlib.crc32(view.render(images, seeds).numpy().tobytes()) == GOLDEN[spec]


def test_the_table_of_ratios_never_changes():
    assert (RATIOS[0], RATIOS[512], RATIOS[1024]) == (49152 / 65536, 1, 87381 / 65536)
    assert zlib.crc32((RATIOS * 65536).astype("<i8").tobytes()) == GOLDEN["ratios"]


@pytest.mark.parametrize("size", SIZES)
def test_the_ways_of_cropping_agree(size):
    """The CPU's and the GPU's, both on the CPU."""
    images = made_images(32, *size)
    place = Crop(size, 4, True).parameters(made_seeds(32).numpy())
    assert torch.equal(windows(images, *place, 4), gathered(images, *place, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("spec", [*NATIVE, *SIZED])
def test_pixels_are_the_same_on_a_gpu(spec):
    images, seeds = made_images(64, 32, 32), made_seeds(64)
    view = open_view(spec, (32, 32))
    rendered = view.render(images.cuda(), seeds)
    assert rendered.is_cuda
    assert torch.equal(rendered.cpu(), view.render(images, seeds))


# resized crops are those that everybody trains with


def boxes_of(height: int, width: int, n: int = 20_000):
    full = np.full(n, height), np.full(n, width)
    (top, left, h, w), flip = random_boxes(*full, sample_seeds(3, np.zeros(n, np.int64), np.arange(n)))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h > 0).all()
    assert (w > 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    return top, left, h, w, flip


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1), (2, 3), (1000, 3), (8, 8), (375, 500)])
def test_boxes_lie_inside(size):
    boxes_of(*size, n=500)
    top, left, h, w = centre_boxes(*(np.array([side]) for side in size))
    assert 0 <= top <= size[0] - h
    assert 0 <= left <= size[1] - w


@pytest.mark.parametrize("size", [(32, 32), (375, 500), (60, 300)])
def test_boxes_are_distributed_as_torchvisions(size):
    from torchvision.transforms import RandomResizedCrop

    n = 4000
    top, left, h, w, flip = boxes_of(*size)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    theirs = [RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(n)]
    torch.set_rng_state(state)
    a, b, c, d = (np.array(v) for v in zip(*theirs, strict=True))
    measures = {
        "area": (h * w, c * d),
        "ratio": (np.log(w / h), np.log(d / c)),
        "top": (top / size[0], a / size[0]),
        "left": (left / size[1], b / size[1]),
        "bottom": ((top + h) / size[0], (a + c) / size[0]),
    }
    for name, (ours, other) in measures.items():
        assert distance(ours, other) < 1.95 * math.sqrt(1 / n + 1 / len(ours)) + 0.004, (
            name
        )  # Kolmogorov-Smirnov, 0.1 %
    assert abs(flip.mean() - 0.5) < 0.02


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest gap between two distribution functions."""
    places = np.unique(np.concatenate([a, b]))
    share = [np.searchsorted(np.sort(v), places, side="right") / len(v) for v in (a, b)]
    return float(np.abs(share[0] - share[1]).max())


def test_the_box_of_a_narrow_image_is_the_largest_allowed_in_the_middle():
    _, left, h, w, _ = boxes_of(10, 1000, n=400)
    fallback = (h == 10) & (w == 13)
    assert fallback.mean() > 0.5
    assert set(left[fallback]) == {(1000 - 13) // 2}


def test_resizing_keeps_what_needs_no_resizing():
    images = made_images(4, 16, 16)
    whole = tuple(np.full(4, v) for v in (0, 0, 16, 16))
    assert torch.equal(resize(images, whole, np.zeros(4, int), (16, 16)), images)
    assert torch.equal(resize(images, whole, np.ones(4, int), (16, 16)), images.flip(3))
    assert (
        open_view("resized-crop:11", (9, 9)).render(torch.full((4, 3, 9, 9), 77, dtype=torch.uint8), made_seeds(4))
        == 77
    ).all()


@pytest.mark.parametrize(("size", "out"), [((20, 30), 32), ((90, 90), 64), ((150, 130), 40)])
def test_resizing_is_near_other_bilinear_resizing(size, out):
    smooth = (
        torch.nn.functional.interpolate(torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)), size) * 255
    )
    smooth = torch.nn.functional.avg_pool2d(smooth, 9, 1, 4).byte()
    ours = Centre((out, out)).render(smooth, made_seeds(2))
    side = min(size) * 7 // 8
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    box = smooth[:, :, top : top + side, left : left + side].float()
    theirs = torch.nn.functional.interpolate(box, (out, out), mode="bilinear", antialias=side > 2 * out)
    assert (ours.float() - theirs).abs().mean() < 1.5


def test_averages_are_rounded_means():
    image = made_images(1, 7, 9)[0]
    assert average(image, 1) is image
    expected = image[
        :, :6, :9
    ].double()  # of 7 rows the last is left over.unflatten(1, (2, 3)).unflatten(3, (3, 3)).mean((2, 4))
    assert (average(image, 3).double() - expected).abs().max() <= 0.5
    assert (average(torch.full((3, 4096, 4), 255, dtype=torch.uint8), 4) == 255).all()


@pytest.mark.parametrize("kind", [Crop, Enumerated, ResizedCrop, Centre, Untouched])
def test_every_native_view_says_so(kind):
    assert kind.native
