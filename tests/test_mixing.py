"""A mixed image, its target and the teacher's answer are the same in any batch, order, worker and rank."""

import json
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from reference_views import made_images, made_seeds
from train_cases import assert_same_weights, dumped, measured, teacher_of

from kdcache import CachedDataset
from kdcache.batches import Loader, straight_plan
from kdcache.cache import Writer, open_cache
from kdcache.errors import CacheError, UsageError
from kdcache.jobs import Data, DumpOptions, Student, make_dump, taught_by
from kdcache.models import build as build_network
from kdcache.proof.verdicts import require_pixels
from kdcache.seeds import MIXING, below, bijection, draw
from kdcache.teachers import Forward
from kdcache.train import Settings
from kdcache.views import Mixed, Mixing, from_json, open_view, seeds_of
from kdcache.views.mixing import ONE, shares, split, steps

SPEC, ROWS = "synthetic:49,4,16", 49
KINDS = [Mixing(1.0), Mixing(0.2), Mixing(None, 1.0), Mixing(0.8, 1.0)]
VIEWS = ["crop-flip+mixup", "none+cutmix", "crop-flip-cutout+mixup:0.2+cutmix", "resized-crop:12+cutmix:0.5"]


def reference(mixing, own, other, seed, share):
    """Pixel by pixel, in f64; the share of the first is given, since it comes out of a table."""
    _, y, x, which = (int(word[0]) for word in draw(np.int64([seed]), 1, MIXING))
    both = mixing.mixup is not None and mixing.cutmix is not None
    if not (which >> 31 if both else mixing.mixup is None):
        return np.floor((own.astype(float) * share + other.astype(float) * (ONE - share)) / ONE + 0.5), share / ONE
    height, width = own.shape[1:]
    out, kept = own.copy(), height * width
    half_h, half_w = (int(side * np.sqrt(1 - share / ONE)) // 2 for side in (height, width))
    centre_y, centre_x = below(y, height), below(x, width)
    for row in range(max(centre_y - half_h, 0), min(centre_y + half_h, height)):
        for column in range(max(centre_x - half_w, 0), min(centre_x + half_w, width)):
            out[:, row, column] = other[:, row, column]
            kept -= 1
    return out, kept / (height * width)


@pytest.mark.parametrize("size", [(32, 32), (9, 13)])
@pytest.mark.parametrize("mixing", KINDS, ids=lambda m: m.name)
def test_pixels_and_shares_are_the_reference(mixing, size):
    own, other, seeds = made_images(40, *size), made_images(40, *size, key=1), made_seeds(40).numpy()
    mixed, kept = mixing.mix(own, other, seeds), mixing.kept(seeds, size)
    words = draw(seeds, 1, MIXING)
    for i in range(40):
        a = mixing.mixup if mixing.cutmix is None or (mixing.mixup and not words[3][i] >> 31) else mixing.cutmix
        share = int(shares(a, words[0][i : i + 1])[0])
        pixels, part = reference(mixing, own[i].numpy(), other[i].numpy(), seeds[i], share)
        assert np.array_equal(mixed[i].numpy(), pixels)
        assert float(kept[i]) == np.float32(part)


@pytest.mark.parametrize("a", [0.01, 0.2, 0.8, 1.0, 3.0, 10.0])
def test_shares_are_beta_distributed(a):
    from scipy import stats

    x = np.arange(ONE + 1) / ONE
    assert np.abs(steps(a) / (1 << 24) - stats.beta(a, a).cdf(x)).max() < 1e-7
    words = np.random.default_rng(0).integers(0, 1 << 32, 20_000)
    found = shares(a, words)
    for word, share in zip(words[:100] >> 8, found[:100], strict=True):
        assert steps(a)[share] <= word < steps(a)[share + 1]


@pytest.mark.parametrize("word", [0, 1, 255, 256, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
def test_even_shares_are_the_word_itself(word):
    assert shares(1.0, np.int64([word]))[0] == word >> 16


@pytest.mark.parametrize("n", [1, 2, 3, 49, 1000])
@pytest.mark.parametrize("view_number", [0, 1, 7])
def test_every_row_is_mixed_in_once_in_each_view(n, view_number):
    view = Mixed((4, 4), open_view("none", (4, 4)), n, Mixing(1.0))
    seeds = seeds_of(view, 3, view_number, np.arange(n))
    assert np.array_equal(np.sort(view.partners(seeds)), np.arange(n))
    assert len(np.unique(seeds)) == n


def test_partners_of_imagenet_are_a_bijection():
    n = 1_281_167
    found = bijection(np.arange(n), n, 5, 2)
    assert np.array_equal(np.bincount(found, minlength=n), np.ones(n))


def test_partners_change_with_key_and_view():
    view = open_view("none+mixup", (4, 4), 500)
    found = [view.partners(seeds_of(view, key, v, np.arange(500))) for key, v in ((0, 0), (0, 1), (1, 0))]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (found[a] == found[b]).mean() < 0.02


def loaded(spec, items, size, seeds=5, **options):
    data = Data.open(SPEC, spec)
    loader = Loader(data.train, data.view, seeds, **options)
    return list(loader.run(straight_plan(items, size)))


@pytest.mark.parametrize("spec", VIEWS)
def test_a_sample_view_does_not_depend_on_its_batch(spec):
    items = np.random.default_rng(0).permutation(3 * ROWS)
    whole = loaded(spec, range(3 * ROWS), 3 * ROWS)[0]
    for size in (1, 7, 40):
        parts = loaded(spec, items, size)
        for name in ("images", "targets", "others", "shares"):
            found = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(found, getattr(whole, name)[torch.from_numpy(items)]), name


@pytest.mark.parametrize("spec", ["resized-crop:16+mixup:0.4+cutmix", "library+mixup+cutmix"])
@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_mix_alike(pictures, tmp_path, spec, start):
    data = Data.open(f"folder:{pictures}", spec.replace("library", f"albumentations:{pipeline(tmp_path)}"))
    here, there = (Loader(data.train, data.view, 5, workers=workers) for workers in (0, 2))
    there.workers.multiprocessing_context = start
    plan = straight_plan(np.random.default_rng(0).permutation(100), 9)
    for one, other in zip(here.run(plan), there.run(plan), strict=True):
        for name in ("images", "targets", "others", "shares"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def pipeline(folder):
    import albumentations as A

    A.save(A.Compose([A.RandomCrop(32, 32), A.HorizontalFlip(), A.ColorJitter()]), folder / "pipeline.json")
    return folder / "pipeline.json"


@pytest.mark.usefixtures("rendered_here")
def test_a_library_view_that_mixes_is_dumped_and_replays(pictures, tmp_path):
    data = Data.open(f"folder:{pictures}", f"albumentations:{pipeline(tmp_path)}+mixup+cutmix")
    cache = dumped(tmp_path / "a.h5", data, build_network("tiny-3", 2, (0.5,) * 3, (0.5,) * 3), "st")
    opened = Data.of_cache(cache, None)
    assert opened.view == data.view
    require_pixels(cache, Loader(opened.train, opened.view, cache))


def test_the_stored_seed_alone_replays_in_another_process(tmp_path):
    data = Data.open(SPEC, "crop-flip+mixup+cutmix")
    path = tmp_path / "a.h5"
    dumped(path, data, teacher_of("resnet8", data), "st")
    code = (
        "import sys, zlib, kdcache; d = kdcache.CachedDataset(sys.argv[1]);"
        "print([[zlib.crc32(i.numpy().tobytes()), *t.tolist(), *k.tolist()] for i, t, k in d.__getitems__(range(98))])"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, env=os.environ)
    here = CachedDataset(path).__getitems__(range(98))
    found = [[zlib.crc32(i.numpy().tobytes()), *t.tolist(), *k.tolist()] for i, t, k in here]
    assert json.loads(run.stdout) == found


@pytest.mark.parametrize("spec", VIEWS)
def test_ranks_make_the_file_of_one(tmp_path, monkeypatch, spec):
    data = Data.open("synthetic:2100,4,16", spec)
    network = teacher_of("tiny-3", data)
    one = dumped(tmp_path / "one.h5", data, network, "st")
    options = DumpOptions(tmp_path / "two.h5", 2, codec="f32", forward=Forward())
    with make_dump(network, data, options) as dump:
        dump.begin()
        with Writer(options.path) as writer:
            for rank in (2, 0, 1):
                monkeypatch.setattr(Writer, "take", lambda _, names, *block, rank=rank: sum(block) % 3 == rank)
                dump.fill(writer)
            writer.finish()
    assert one.path.read_bytes() == options.path.read_bytes()


@pytest.mark.parametrize("spec", VIEWS)
@pytest.mark.parametrize(
    "method", ["st", *(pytest.param(m, marks=pytest.mark.slow) for m in ("st+at", "logits", "st/funmatch"))]
)
@pytest.mark.usefixtures("few_are_tried")
def test_cached_equals_live(tmp_path, spec, method):
    data = Data.open(SPEC, spec)
    network = teacher_of("resnet8", data)
    cache = dumped(tmp_path / "a.h5", data, network, method)
    settings = Settings(epochs=3, batch=16, lr=0.02)
    outcomes = [Student(data, "resnet8", method, settings, taught_by(cache, live)).train() for live in (None, network)]
    assert measured(outcomes[0][1]) == measured(outcomes[1][1])
    assert_same_weights(outcomes[0][0][0], outcomes[1][0][0])


def test_the_teacher_answers_on_the_mixture(tmp_path):
    data = Data.open(SPEC, "crop-flip+mixup")
    network = teacher_of("resnet8", data)
    cache = dumped(tmp_path / "a.h5", data, network, "st")
    batch = next(Loader(data.train, data.view, cache).run([np.arange(ROWS)]))
    with torch.no_grad():
        assert torch.allclose(network(batch.images), cache.read(0, range(ROWS))["logits"], atol=1e-5)
    own = next(Loader(data.train, data.view.of, cache).run([np.arange(ROWS)]))
    assert (own.images != batch.images).flatten(1).any(1).sum() > ROWS - 5


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_rebuilt_from_its_header(view):
    found = open_view(view, (16, 16), ROWS)
    header = json.loads(json.dumps(found.to_json()))
    assert from_json("x", header) == found
    assert found.evaluation() == found.of.evaluation()
    assert open_view(found.name if ":" not in view.partition("+")[0] else view, (16, 16), ROWS) == found


@pytest.mark.parametrize(
    "change",
    [{"rows": 0}, {"rows": 1.5}, {"rows": 1 << 40}, {"mixup": "x"}, {"mixup": None}, {"mixup": -1}, {"size": [8, 8]},
     {"of": 3}, {"of": {}}, {"cutmix": 1e9}, {"view": "none"}, {"more": 1}],
    ids=str,
)  # fmt: skip
def test_a_header_that_lies_is_refused(change):
    header = open_view("none+mixup", (16, 16), ROWS).to_json() | change
    with pytest.raises(CacheError):
        from_json("x", header)


@pytest.mark.parametrize("spec", ["none+mixup:0", "none+mixup:x", "none+mixup+mixup", "none+cutmix:nan", "none+mixop"])
def test_a_view_that_cannot_be_meant_is_refused(spec):
    with pytest.raises(UsageError):
        open_view(spec, (16, 16), ROWS)


def test_a_plus_in_a_file_name_is_no_mixing():
    assert split("albumentations:a+b.json") == ("albumentations:a+b.json", None)
    assert split("albumentations:a+b.json+mixup")[0] == "albumentations:a+b.json"


def test_views_of_two_mixed_files_join(tmp_path, dump):
    data = Data.open("synthetic:40,4,8", "crop-flip+mixup")
    network = teacher_of("tiny-3", data)
    for first in (0, 2):
        dump(tmp_path / f"{first}.h5", data, network, views=2, first_view=first)
    dump(tmp_path / "all.h5", data, network, views=4)
    whole, parts = open_cache(tmp_path / "all.h5"), [open_cache(tmp_path / f"{first}.h5") for first in (0, 2)]
    for view in range(4):
        part = parts[view // 2]
        assert np.array_equal(part.seeds(view % 2, range(40)), whole.seeds(view, range(40)))
        assert torch.equal(part.read(view % 2, range(40))["logits"], whole.read(view, range(40))["logits"])
