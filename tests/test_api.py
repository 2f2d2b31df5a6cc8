"""CachedDataset hands any training loop the pixels and the answers of the dump; Distiller trains on them."""

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from cli_cases import good
from PIL import Image
from reference_views import made_images
from torch.utils.data import DataLoader

import kdcache
from kdcache.api import CachedDataset
from kdcache.errors import DataChanged, PipelineChanged, UsageError
from kdcache.jobs import Data
from kdcache.views import seeds_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
START = ["fork", pytest.param("spawn", marks=pytest.mark.slow)]


@pytest.fixture
def cached(cache_file) -> CachedDataset:
    return CachedDataset(cache_file)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Forty files of several sizes."""
    root = tmp_path_factory.mktemp("images")
    for i in range(40):
        pixels = made_images(1, 66 + i % 7, 70, key=i)[0].permute(1, 2, 0).numpy()
        path = root / ("train" if i < 34 else "test") / f"class{i % 2}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="session")
def of_files(images, dump, tmp_path_factory):
    """A cache of images that are decoded when they are read."""
    data = Data.open(f"folder:{images}", "resized-crop:8")
    network = data.network("tiny-3", 0).eval()
    return dump(tmp_path_factory.mktemp("files") / "files.h5", data=data, network=network, codec="f32")


def right(cached: CachedDataset, items) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Pixels rendered anew from the run key, labels of the source, answers of the file."""
    view, key = cached.loader.view, cached.cache.meta["run_key"]
    views, rows = np.divmod(np.asarray(items), len(cached.source))
    pixels = view.render(cached.source.read(rows), torch.from_numpy(seeds_of(view, key, views, rows)))
    return pixels, cached.source.labels[rows], cached.cache.read(views, rows)["logits"]


def assert_right(cached: CachedDataset, items, batches) -> None:
    found = [torch.cat([torch.as_tensor(part) for part in parts]) for parts in zip(*batches, strict=True)]
    pixels, labels, logits = right(cached, items)
    assert found[0].dtype == torch.uint8
    assert torch.equal(found[0], pixels)
    assert np.array_equal(found[1].numpy(), labels)
    assert torch.equal(found[2], logits)


def test_an_item_is_image_label_and_answer(cached):
    image, label, logits = cached[1300 * 2 + 7]
    assert (image.shape, image.dtype, type(label)) == ((3, 8, 8), torch.uint8, int)
    assert (logits.shape, logits.dtype) == ((10,), torch.float32)
    assert_right(cached, [2607], [(image[None], [label], logits[None])])
    assert (len(cached), cached.views, len(cached.classes), len(cached.view(0))) == (3900, 3, 10, 1300)


def test_answers_are_those_of_the_teacher_on_these_pixels(cached, teacher):
    """What the whole package is about."""
    items = np.random.default_rng(0).permutation(3900)[:512]
    images, _, logits = zip(*cached.__getitems__(items), strict=True)
    with torch.no_grad():
        live = copy.deepcopy(teacher)(torch.stack(images))
    assert (live - torch.stack(logits)).abs().max() < 2e-3 * live.abs().max()  # f16
    assert (live.argmax(1) == torch.stack(logits).argmax(1)).float().mean() > 0.99


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_loader_over_one_view(cached, workers):
    for view in (0, 2):
        loader = DataLoader(cached.view(view), 100, num_workers=workers)
        assert_right(cached, np.arange(1300) + view * 1300, loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shuffling_loader_shows_every_row_once(cached, workers):
    places = {image.numpy().tobytes(): i for i, image in enumerate(right(cached, np.arange(1300, 2600))[0])}
    torch.manual_seed(0)
    batches = list(DataLoader(cached.view(1), 128, shuffle=True, num_workers=workers))
    rows = [places[image.numpy().tobytes()] for images, _, _ in batches for image in images]
    assert sorted(rows) == list(range(1300))
    assert rows != list(range(1300))
    assert_right(cached, np.array(rows) + 1300, batches)


@pytest.mark.parametrize("method", START)
def test_workers_that_stay_get_every_epoch_from_the_sampler(cached, method):
    loader = DataLoader(
        cached,
        130,
        sampler=cached.epochs(seed=4),
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=method,
    )
    orders = []
    for epoch in range(4):
        items = list(iter(numbers := cached.epochs(seed=4, first=epoch)))
        assert len(loader) == len(numbers) // 130 == 10
        assert_right(cached, items, loader)
        assert sorted(items) == [1300 * (epoch % 3) + row for row in range(1300)]
        orders.append(tuple(item % 1300 for item in items))
    assert len(set(orders)) == 4


@pytest.mark.parametrize("batch_size", [None, 64])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_sampler_counts_each_pass_once(cached, batch_size, workers):
    """A loader without batches asks a sampler for two iterators in its first epoch."""
    sampler = cached.epochs(shuffle=False)
    loader = DataLoader(cached, batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    for epoch in range(2):
        first = next(iter(loader))
        logits = first[2] if batch_size is None else first[2][0]
        assert torch.equal(logits, cached.cache.read(epoch, [0])["logits"][0])
        assert sampler.epoch == epoch + 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", START)
def test_files_are_read_in_workers(of_files, workers, method):
    cached = CachedDataset(of_files)
    order = np.random.default_rng(2).permutation(len(cached))
    context = {"multiprocessing_context": method} if workers else {}
    assert_right(cached, order, DataLoader(cached, 10, sampler=order.tolist(), num_workers=workers, **context))


def test_a_cache_of_all_views_shows_every_rendering(dump, tmp_path):
    data = Data.open("synthetic:20,2,8", "crop")
    file = dump(tmp_path / "all.h5", data=data, network=data.network("tiny-2", 0).eval(), views="all")
    cached = CachedDataset(file)
    assert cached.views == 81
    assert_right(cached, np.arange(len(cached)), DataLoader(cached, 100))
    shown = [cached.__getitems__(np.arange(81) * 20 + row) for row in range(20)]
    assert all(len({image.numpy().tobytes() for image, *_ in views}) == 81 for views in shown)


def test_views_start_over(cached):
    for epoch in (-1, 0, 2, 3, 8, 300_001):
        assert_right(
            cached, [epoch % 3 * 1300 + 11], [tuple(torch.as_tensor(part)[None] for part in cached.view(epoch)[11])]
        )


@pytest.mark.parametrize("number", [-1, 3900, 10**12, -3901])
def test_items_outside_are_refused(cached, number):
    with pytest.raises(IndexError, match="item numbers go from 0 to 3899"):
        cached[number]
    with pytest.raises(IndexError):
        cached.__getitems__([0, number])


@pytest.mark.parametrize("number", [-1, 1300])
def test_rows_outside_are_refused(cached, number):
    with pytest.raises(IndexError, match="rows go from 0 to 1299"):
        cached.view(1)[number]


@pytest.mark.parametrize("number", [1.5, "3", None, True])
def test_what_is_no_number_is_refused(cached, number):
    with pytest.raises(TypeError):
        cached[number]


def test_iteration_ends(cached):
    view = cached.view(0)
    assert sum(1 for _ in view) == 1300


def test_numbers_of_any_kind_are_taken(cached):
    whole = cached[17]
    for number in (np.int64(17), torch.tensor(17), np.uint8(17)):
        assert torch.equal(cached[number][2], whole[2])
    assert cached.__getitems__([]) == []


def test_it_pickles_small_state_and_no_handles(cached):
    cached[0]
    size = len(pickle.dumps(cached))
    assert size < cached.source.resident.numel() * 2.2 + 200_000
    back = pickle.loads(pickle.dumps(cached))
    assert torch.equal(back[5][0], cached[5][0])
    assert torch.equal(back[5][2], cached[5][2])
    assert torch.equal(pickle.loads(pickle.dumps(cached.view(2)))[5][2], cached.view(2)[5][2])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_no_file_stays_open(cache_file, of_files):
    before = len(os.listdir("/proc/self/fd"))
    sets = [CachedDataset(path) for path in (cache_file, of_files) for _ in range(5)]
    for cached in sets:
        cached[0]
    assert len(os.listdir("/proc/self/fd")) - before <= len(sets)  # one map each


def test_changed_images_are_refused_at_once(cache_file):
    with pytest.raises(DataChanged):
        CachedDataset(cache_file, data="synthetic:1301,10,8")


def test_a_changed_rendering_is_refused_at_once(cache_file, monkeypatch):
    from kdcache.views import crop

    monkeypatch.setattr(crop, "windows", lambda images, *_: images ^ 1)
    with pytest.raises(PipelineChanged, match="expected the pixels the teacher saw"):
        CachedDataset(cache_file)


def test_other_knowledge_is_refused_by_name(cache_file):
    with pytest.raises(UsageError, match=r"expected knowledge 'f2\.post', found only logits"):
        CachedDataset(cache_file, name="f2.post")


def test_the_package_offers_it_by_name(cache_file):
    assert kdcache.CachedDataset is CachedDataset
    assert {"CachedDataset", "Distiller", "open_cache"} <= set(dir(kdcache))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kdcache.nothing  # noqa: B018


def test_evaluation_images_with_the_teacher_s_answers(cached, teacher):
    held_out = cached.evaluation()
    batches = list(DataLoader(held_out, 100))
    images, labels, logits = (torch.cat([batch[part] for batch in batches]) for part in range(3))
    assert torch.equal(images, cached.opened.held_out.read(range(260)))
    assert np.array_equal(labels.numpy(), cached.opened.held_out.labels)
    with torch.no_grad():
        live = copy.deepcopy(teacher)(images)
    assert (live - logits).abs().max() < 2e-3 * live.abs().max()  # f16
    assert len(cached.evaluation(answers=False)[3]) == 2
    with pytest.raises(IndexError, match="rows go from 0 to 259"):
        held_out[-1]


def test_answers_to_evaluation_images_that_are_not_there(in_tmp):
    good("pseudo-teacher --data synthetic:64,4,16 --views 1 -o made.h5")
    made = CachedDataset("made.h5")
    with pytest.raises(UsageError, match=r"answers=False"):
        made.evaluation()
    assert sum(len(labels) for _, labels in DataLoader(made.evaluation(answers=False), 5)) == 12


def test_several_kinds_of_knowledge_at_once(dump, tmp_path):
    cached = CachedDataset(dump(tmp_path / "two.h5", knowledge="logits,emb"), names=["emb", "logits"])
    _, _, knowledge = next(iter(DataLoader(cached.view(1), 10)))
    stored = cached.cache.read(1, range(10))
    assert list(knowledge) == ["emb", "logits"]
    assert all(torch.equal(knowledge[name], stored[name]) for name in knowledge)
    assert torch.equal(cached.evaluation()[4][2]["emb"], cached.cache.read_eval([4])["emb"][0])
    assert torch.equal(pickle.loads(pickle.dumps(cached))[5][2]["emb"], cached[5][2]["emb"])
    with pytest.raises(UsageError, match=r"knowledge 'f2\.post', found only"):
        CachedDataset(cached.cache, names=["logits", "f2.post"])


def test_slices_are_refused_with_what_to_take(cached):
    for one in (cached, cached.view(0), cached.evaluation()):
        with pytest.raises(TypeError, match=r"not slices; torch\.utils\.data\.Subset"):
            one[:10]


def test_a_cache_is_a_context(cache_file):
    with kdcache.open_cache(cache_file) as cache:
        before = cache.read(0, [3])["logits"]
        assert cache._map is not None
    assert cache._map is None
    assert torch.equal(cache.read(0, [3])["logits"], before)  # opened again


def test_what_things_say_of_themselves(cached, cache_file):
    assert repr(cached.cache) == f"Cache({str(cache_file)!r}): 1,300 rows x 3 views of logits by tiny-3"
    assert "3 views of 1,300 rows of synthetic:1300,10,8, crop-flip 8x8, with logits" in repr(cached)
    assert "not trained" in repr(kdcache.Distiller("tiny-2", cache_file, device="cpu"))


def test_an_error_of_ours_stays_one_in_a_worker_of_a_loader(cache_file):
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, row):
            raise DataChanged("a.jpg", "an image", "none", "put it back")

    with pytest.raises(DataChanged, match="expected an image, found none"):
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))


def test_a_copy_of_numbered_images_tells_workers_the_epoch(cache_file):
    images = pickle.loads(pickle.dumps(kdcache.CachedDataset(cache_file).numbered()))
    assert images.shown.is_shared()
