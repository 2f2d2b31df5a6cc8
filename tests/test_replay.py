"""A loader renders the same sample-views whoever renders them, in whatever order, as often as wanted."""

import numpy as np
import pytest
import torch
from PIL import Image
from reference_views import made_images

from kdcache.batches import Loader, Seeded, straight_plan, training_plan
from kdcache.errors import SourceError
from kdcache.sources import open_source
from kdcache.views import enumerate_all, open_view, seeds_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
ROWS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """Sixty images of several sizes, so that they stay in their files."""
    root = tmp_path_factory.mktemp("images")
    for i in range(ROWS):
        pixels = made_images(1, 66 + i % 7, 70, key=i)[0].permute(1, 2, 0).numpy()
        for split in ("train", "test")[: 2 if i < 12 else 1]:
            path = root / split / f"class{i % 3}" / f"{i:03}.{'png' if i % 2 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return f"folder:{root}"


@pytest.fixture(scope="module")
def source(folder):
    return open_source(folder)


@pytest.fixture(scope="module")
def view():
    return open_view("resized-crop:24", None)


def expected(source, view, items: np.ndarray, key: int) -> torch.Tensor:
    """Image by image, without a loader."""
    out = []
    for item in items.tolist():
        number, row = divmod(item, len(source))
        out.append(view.render(source.read([row]), torch.from_numpy(seeds_of(view, key, [number], [row]))))
    return torch.cat(out)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_files_are_rendered_alike_by_any_number_of_workers(source, view, workers):
    items = np.random.default_rng(0).permutation(3 * ROWS)
    loader = Loader(source, view, 5, workers=workers)
    plan = [items[i : i + 16] for i in range(0, len(items), 16)]
    for _ in range(2):  # the second time with workers that are there already
        batches = list(loader.run(plan, epoch=4))
        assert torch.equal(torch.cat([b.images for b in batches]), expected(source, view, items, 5))
        assert np.array_equal(np.concatenate([b.rows for b in batches]), items % ROWS)
        assert np.array_equal(np.concatenate([b.views for b in batches]), items // ROWS)
        assert np.array_equal(torch.cat([b.targets for b in batches]).numpy(), source.labels[items % ROWS])
        assert {b.epoch for b in batches} == {4}


def test_a_run_that_is_abandoned_does_not_reach_into_the_next(source, view):
    loader = Loader(source, view, 5, workers=2)
    run = loader.run(straight_plan(range(2 * ROWS), 4))
    next(run)
    run.close()
    plan = straight_plan(range(ROWS, ROWS + 20), 7)
    for batch, items in zip(loader.run(plan), plan, strict=True):
        assert torch.equal(batch.images, expected(source, view, items, 5))


def test_an_error_in_a_worker_comes_out_as_it_is(folder, view):
    source = open_source(folder)
    source.names = [*source.names[:30], "train/gone.jpg", *source.names[31:]]
    loader = Loader(source, view, 5, workers=2)
    with pytest.raises(SourceError, match=r"\A.*gone\.jpg: expected a readable image, found No such file.*\Z"):
        list(loader.run(straight_plan(range(ROWS), 8)))
    batch = next(loader.run(straight_plan(range(8), 8)))  # and the workers go on
    assert torch.equal(batch.images, expected(source, view, np.arange(8), 5))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_left_alone(source, view, workers):
    """Or dropout would depend on how images are read."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(Loader(source, view, 5, workers=workers).run(straight_plan(range(16), 8)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["none", "crop", "crop-flip", "crop-flip-cutout", "resized-crop", "centre", "all"])
def test_what_is_in_memory_is_rendered_alike_in_any_batch(name):
    source = open_source("synthetic:90,3,16")
    view = enumerate_all(open_view("crop-flip", (16, 16))) if name == "all" else open_view(name, source.size)
    items = np.random.default_rng(1).permutation(3 * 90)
    loader, given = Loader(source, view, 5), Loader(source, view, Seeded(view, 5, len(source)))
    right = expected(source, view, items, 5)
    for size in (7, 64, 270):
        plan = [items[i : i + size] for i in range(0, len(items), size)]
        for one in (loader, given):
            assert torch.equal(torch.cat([b.images for b in one.run(plan)]), right)


def test_views_of_a_row_differ_and_keys_too():
    source = open_source("synthetic:40,2,16")
    view = open_view("crop-flip-cutout", source.size)
    shown = [Loader(source, view, key).images(np.arange(40) + 40 * v).numpy() for key in (0, 1) for v in (0, 1)]
    for i in range(4):
        for j in range(i):
            assert sum(np.array_equal(a, b) for a, b in zip(shown[i], shown[j], strict=True)) < 4


# plans


@pytest.mark.parametrize(("rows", "batch"), [(100, 10), (101, 10), (99, 10), (1, 8), (7, 8), (9, 8)])
def test_a_training_plan_shows_each_row_once(rows, batch):
    for epoch in range(1, 6):
        plan = training_plan(rows, 3, epoch, batch, seed=0)
        items = np.concatenate(plan)
        left_out = rows % batch == 1 and rows > 1 and batch > 1
        assert len(np.unique(items)) == len(items) == rows - left_out
        assert set(items // rows) == {(epoch - 1) % 3}
        assert all(len(part) == batch for part in plan[:-1])
        assert left_out or len(plan[-1]) == rows - batch * (len(plan) - 1)


def test_a_training_plan_is_a_matter_of_seed_and_epoch():
    orders = {
        (seed, epoch): np.concatenate(training_plan(200, 2, epoch, 32, seed)) % 200
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    }
    again = np.concatenate(training_plan(200, 2, 3, 32, 1)) % 200
    assert np.array_equal(orders[1, 3], again)
    assert len({order.tobytes() for order in orders.values()}) == 6
    other_batch = np.concatenate(training_plan(200, 2, 3, 50, 1)) % 200
    assert np.array_equal(other_batch, again)


def test_a_row_that_is_left_out_changes_from_epoch_to_epoch():
    missing = {
        frozenset(range(65)) - frozenset(np.concatenate(training_plan(65, 1, epoch, 32, 0)).tolist())
        for epoch in range(1, 9)
    }
    assert len(missing) > 4


def test_a_straight_plan_is_in_order():
    assert [part.tolist() for part in straight_plan(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert straight_plan([], 4) == []
