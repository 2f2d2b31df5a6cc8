"""Several caches at once: more views of one teacher, the average of several."""

import numpy as np
import pytest
import torch
from conftest import VIEWS, fresh_teacher

from kdcache.cache import open_cache
from kdcache.cache.joined import Average, MoreViews, join
from kdcache.errors import CacheError, UsageError
from kdcache.jobs import Student, open_data, taught_by
from kdcache.train import Settings

ROWS = np.array([5, 3, 3, 1299])


@pytest.fixture(scope="session")
def later_file(dump, tmp_path_factory):
    return dump(tmp_path_factory.mktemp("later") / "later.h5", views=2, first_view=VIEWS)


@pytest.fixture(scope="session")
def other_file(dump, data, tmp_path_factory):
    return dump(tmp_path_factory.mktemp("other") / "other.h5", network=fresh_teacher(data, seed=2))


def test_one_cache_stays_as_it_is(cache):
    assert join([cache]) is cache


def test_views_of_one_teacher_follow_each_other(cache, later_file):
    joined, later = join([cache, open_cache(later_file)]), open_cache(later_file)
    assert isinstance(joined, MoreViews)
    assert joined.views == joined.meta["views"] == VIEWS + 2
    views = np.array([0, VIEWS, VIEWS + 1, 2])
    expected = [(cache, 0), (later, 0), (later, 1), (cache, 2)]
    found = joined.read(views, ROWS)["logits"]
    for place, (file, view) in enumerate(expected):
        assert torch.equal(found[place], file.read(view, ROWS[place : place + 1])["logits"][0])
        assert joined.seeds(views, ROWS)[place] == file.seeds(view, ROWS[place : place + 1])[0]


def test_later_views_are_those_of_a_longer_dump(dump, later_file, tmp_path):
    whole, later = open_cache(dump(tmp_path / "whole.h5", views=VIEWS + 2)), open_cache(later_file)
    assert np.array_equal(whole.seeds(VIEWS + 1, ROWS), later.seeds(1, ROWS))
    assert torch.equal(whole.read(VIEWS + 1, ROWS)["logits"], later.read(1, ROWS)["logits"])


def test_the_same_views_twice_are_refused(cache):
    with pytest.raises(CacheError, match="--first-view"):
        join([cache, cache])


def test_views_beyond_the_last_are_refused(cache, later_file):
    with pytest.raises(UsageError, match=f"0 to {VIEWS + 1}"):
        join([cache, open_cache(later_file)]).read(VIEWS + 2, ROWS)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_several_teachers_are_averaged_in_probability(cache, other_file, temperature):
    other = open_cache(other_file)
    joined = join([cache, other], [3, 1], "probability", temperature)
    assert isinstance(joined, Average)
    parts = [c.read(1, ROWS)["logits"].double().div(temperature).softmax(1) for c in (cache, other)]
    found = joined.read(1, ROWS)["logits"].double().div(temperature).softmax(1)
    torch.testing.assert_close(found, 0.75 * parts[0] + 0.25 * parts[1], rtol=0, atol=1e-6)


def test_several_teachers_are_averaged_in_logits(cache, other_file):
    other = open_cache(other_file)
    found = join([cache, other], None, "logits").read(1, ROWS)["logits"]
    torch.testing.assert_close(found, (cache.read(1, ROWS)["logits"] + other.read(1, ROWS)["logits"]) / 2)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, 1, 1]])
def test_weights_that_make_no_average_are_refused(cache, other_file, weights):
    with pytest.raises(UsageError, match="2 weights"):
        join([cache, open_cache(other_file)], weights)


def test_teachers_of_other_views_are_refused(cache, dump, data, tmp_path):
    other = dump(tmp_path / "other.h5", network=fresh_teacher(data, seed=2), seed=9)
    with pytest.raises(CacheError, match="--seed"):
        join([cache, open_cache(other)])


@pytest.mark.parametrize("average", ["median", "logits:4", "probability:0", "probability:x"])
def test_an_average_that_is_none_is_refused(cache_file, average):
    with pytest.raises(UsageError, match="--average"):
        open_data([str(cache_file)], None, None, 1.0, average)


def test_students_train_from_both_kinds(cache_file, later_file, other_file):
    for files in ((cache_file, later_file), (cache_file, other_file)):
        data, cache = open_data([str(file) for file in files], None, None, 1.0)
        _, records = Student(data, "tiny-3", "st", Settings(epochs=1), taught_by(cache)).train()
        assert {"ce", "st"} == records[0]["loss"].keys()
        assert "agreement" in records[0]
