"""A part of a cache's rows: the rows that such a fraction of the data has, and what the teacher said of them."""

import numpy as np
import pytest
import torch
from cli_cases import DATA, STUDENT, good, refused

from kdcache.cache import open_cache
from kdcache.cache.subset import Subset
from kdcache.errors import CacheError, UsageError
from kdcache.jobs import Data, Student, open_data, prune, taught_by
from kdcache.proof.verdicts import verify
from kdcache.train import Settings

FRACTIONS = (0.5, 0.2, 0.05)


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_it_has_the_rows_of_the_datas_own_fraction(cache_file, fraction):
    opened, subset = open_data(cache_file, fraction=fraction)
    part = Data.open(opened.train.spec, None, fraction).train
    assert opened.train.identity() == part.identity() == subset.meta["source"]
    assert torch.equal(opened.train.resident, part.resident)
    assert np.array_equal(subset.labels, part.labels)
    assert np.array_equal(subset.digests, part.digests(range(len(part))))


def test_smaller_fractions_lie_in_larger_ones(cache_file):
    rows = [set(open_data(cache_file, fraction=fraction)[1].rows.tolist()) for fraction in FRACTIONS]
    assert rows[0] > rows[1] > rows[2]


def test_it_says_what_the_whole_says(cache):
    rows = np.array([3, 700, 701, 1299])
    subset, some = Subset(cache, rows, {}), [2, 0, 3]
    for view in range(cache.views):
        assert torch.equal(subset.read(view, some)["logits"], cache.read(view, rows[some])["logits"])
        assert np.array_equal(subset.seeds(view, some), cache.seeds(view, rows[some]))
        held = subset.hold(view, ["logits"], "cpu")(torch.tensor(some))["logits"]
        assert torch.equal(held, cache.read(view, rows[some])["logits"])
    assert torch.equal(subset.read_eval([1])["logits"], cache.read_eval([1])["logits"])
    with pytest.raises(UsageError, match="rows from 0 to 3, found 4"):
        subset.read(0, [4])


def test_the_first_views_alone(cache):
    assert cache.views > 2
    first = Subset(cache, None, views=2)
    assert (first.views, len(first), first.meta["views"]) == (2, len(cache), 2)
    assert torch.equal(first.read(1, [5])["logits"], cache.read(1, [5])["logits"])
    assert set(first.canaries["view"]) <= {0, 1}
    with pytest.raises(UsageError, match="views"):
        first.read(2, [5])
    with pytest.raises(UsageError, match=f"views.: expected a whole number from 1 to {cache.views}, found 0"):
        Subset(cache, None, views=0)


def test_canaries_keep_their_images(cache):
    rows = np.sort(cache.canaries["row"])[:5]
    found = Subset(cache, rows, {}).canaries
    stay = np.isin(cache.canaries["row"], rows)
    assert np.array_equal(rows[found["row"]], cache.canaries["row"][stay])
    assert np.array_equal(found["crc"], cache.canaries["crc"][stay])
    assert Subset(cache, np.setdiff1d(np.arange(1300), cache.canaries["row"]), {}).canaries == {}


def test_of_a_cache_that_is_a_part_itself(dump, tmp_path):
    cache = dump(tmp_path / "half.h5", data=Data.open("digits", None, 0.5), views=1)
    opened, subset = open_data(cache, fraction=0.2)
    assert opened.train.identity() == Data.open("digits", None, 0.2).train.identity()
    images = opened.train.digests(range(len(subset)))
    assert np.array_equal(subset.digests, images)
    assert open_data(cache, fraction=0.5)[1].path == cache
    with pytest.raises(UsageError, match=r"`fraction`: expected a number above 0 and up to 0.5, found 0.6"):
        open_data(cache, fraction=0.6)


def test_students_learn_from_it(cache_file):
    opened, subset = open_data(cache_file, fraction=0.2)
    _, records = Student(opened, "tiny-3", "st", Settings(epochs=2), taught_by(subset)).train()
    assert records[1]["loss"]["st"] < records[0]["loss"]["st"]


def test_a_view_that_mixes_needs_all_rows(dump, data, tmp_path):
    mixed = Data.open("digits", "crop+mixup:0.2")
    with pytest.raises(UsageError, match=r"`fraction`: expected a view that does not mix rows, found crop\+mixup"):
        open_data(dump(tmp_path / "x.h5", data=mixed, views=1), fraction=0.5)


@pytest.fixture
def pruned(cache_file, tmp_path):
    return open_cache(prune(str(cache_file), str(tmp_path / "x.h5"), views=[1, 2], fraction=0.5))


def test_a_file_of_these_rows(pruned, cache_file):
    opened, subset = open_data(cache_file, fraction=0.5)
    assert pruned.meta["source"] == opened.train.identity()
    assert pruned.meta["pruned_from"].items() >= {"rows": 1300, "views": [1, 2]}.items()
    every = np.arange(len(subset))
    for view, before in enumerate((1, 2)):
        assert torch.equal(pruned.read(view, every)["logits"], subset.read(before, every)["logits"])
        assert np.array_equal(pruned.seeds(view, every), subset.seeds(before, every))
    assert np.array_equal(pruned.labels, subset.labels)
    assert np.array_equal(pruned.digests, subset.digests)
    assert torch.equal(pruned.read_eval([0, 259])["logits"], subset.read_eval([0, 259])["logits"])


def test_it_verifies(pruned):
    assert len(pruned.canaries["row"])
    opened, _ = open_data(pruned.path)
    found = list(verify(pruned, opened.train, opened.view, None, {}, held_out=opened.held_out))
    assert all(check.ok for check in found), found
    assert {"images", "pixels", "knowledge/logits"} <= {check.name for check in found}


def test_a_part_of_a_part_has_the_same_bytes(pruned, cache_file, tmp_path):
    smaller = prune(str(pruned.path), str(tmp_path / "y.h5"), fraction=0.1)
    at_once = prune(str(cache_file), str(tmp_path / "z.h5"), [1, 2], fraction=0.1)
    assert smaller.read_bytes() == at_once.read_bytes()
    assert prune(str(cache_file), str(smaller), [1, 2], fraction=0.1) == smaller
    with pytest.raises(CacheError, match="as in the file"):
        prune(str(cache_file), str(smaller), [1, 2], fraction=0.2)


@pytest.mark.parametrize(("options", "words"), [
    ({"fraction": 1}, "something to leave out"), ({"data": "digits"}, "`fraction` beside it"),
])  # fmt: skip
def test_rows_that_cannot_be_kept(cache_file, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        prune(str(cache_file), str(tmp_path / "x.h5"), **options)
    assert not list(tmp_path.glob("x.h5*"))


@pytest.mark.usefixtures("home")
def test_as_a_command(tmp_path):
    good(f"{STUDENT} --cache a.h5 --fraction 0.5 --method none --out {tmp_path}/cached")
    good(f"{STUDENT} {DATA} --fraction 0.5 --method none --views 2 --out {tmp_path}/alone")
    good(f"{STUDENT} --cache a.h5 --fraction 0.5 --live --teacher tiny-3 --out {tmp_path}/live")
    assert good(f"prune a.h5 --fraction 0.5 -o {tmp_path}/half.h5 --json").json()["rows"] == 32
    assert "kept of     2 views: 0-1; knowledge logits; 64 rows" in good(f"inspect {tmp_path}/half.h5").out
    assert "FAIL" not in good(f"verify {tmp_path}/half.h5 --teacher tiny-3").out
    good(f"{STUDENT} --cache {tmp_path}/half.h5 --out {tmp_path}/half")
    refused(f"{STUDENT} --cache a.h5 --augment crop", 2, "leave --augment out")
