"""Resized crops take the boxes that everybody trains with, and resize them as others do."""

import math

import numpy as np
import pytest
import torch
from reference_views import made_images, made_seeds, reference_box

from kdcache.seeds import sample_seeds
from kdcache.views import open_view, resize
from kdcache.views.native import Centre
from kdcache.views.resize import average, centre_boxes, random_boxes, resize_each


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


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (375, 500), (20, 300), (300, 20)])
def test_boxes_are_the_reference(size):
    seeds = made_seeds(200).numpy()
    boxes, _ = random_boxes(np.full(200, size[0]), np.full(200, size[1]), seeds)
    assert np.stack(boxes, 1).tolist() == [list(reference_box(*size, seed)) for seed in seeds.tolist()]


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
    assert torch.equal(resize_each(images, whole, np.zeros(4, int), (16, 16)), images)
    assert torch.equal(resize_each(images, whole, np.ones(4, int), (16, 16)), images.flip(3))
    assert (
        open_view("resized-crop:11", (9, 9)).render(torch.full((4, 3, 9, 9), 77, dtype=torch.uint8), made_seeds(4))
        == 77
    ).all()


def test_an_image_resized_alone_has_the_pixels_that_it_has_among_others(monkeypatch):
    images, seeds, view = made_images(16, 40, 30), made_seeds(16), open_view("resized-crop:24", (40, 30))
    among_others = view.render(images, seeds)
    monkeypatch.setattr(resize, "CACHE", 1)
    assert torch.equal(view.render(images, seeds), among_others)
    assert torch.equal(view.render(list(images), seeds), among_others)


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
    assert (ours.float() - theirs).abs().mean() < 3  # where it averages, it leaves up to a row in `out` rows over


def test_averages_are_rounded_means():
    image = made_images(1, 7, 9)[0]
    assert average(image, 1) is image
    kept = image[:, :6].double()  # of 7 rows the last is left over
    expected = kept.unflatten(1, (2, 3)).unflatten(3, (3, 3)).mean((2, 4))
    assert (average(image, 3).double() - expected).abs().max() <= 0.5
    assert (average(torch.full((3, 4096, 4), 255, dtype=torch.uint8), 4) == 255).all()
