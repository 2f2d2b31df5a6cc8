"""Rows of a cache that a user names: a cache of their own, on the images that they are of."""

import numpy as np
import pytest
import torch
from cli_cases import DUMP, STUDENT, TEACHER, good, refused

import kdcache
from kdcache.cache import open_cache
from kdcache.errors import KdcacheError, UsageError
from kdcache.jobs import Data, open_data, prune
from kdcache.jobs.rows import rows_of, spans_in
from kdcache.proof.verdicts import verify


@pytest.mark.parametrize("text", ["0-9,20,1290-1299", "20,1290-1299,0-9", "1024-1299", "7"])
def test_named_rows_are_kept_and_verify(cache_file, cache, tmp_path, text, data, teacher):
    small = open_cache(prune(str(cache_file), str(tmp_path / "a.h5"), rows=text))
    rows = rows_of(spans_in(text), len(cache), "")
    assert np.array_equal(small.labels, cache.labels[rows])
    some = np.arange(len(rows))[::-3]
    for view in range(cache.views):
        assert torch.equal(small.read(view, some)["logits"], cache.read(view, rows[some])["logits"])
        assert np.array_equal(small.seeds(view, some), cache.seeds(view, rows[some]))
    dataset = kdcache.CachedDataset(small)
    whole = kdcache.CachedDataset(cache)
    assert torch.equal(dataset[len(rows) - 1][0], whole[int(rows[-1])][0])
    assert all(check.ok for check in verify(small, dataset.source, dataset.loader.view, None, {}))


def test_rows_of_rows_are_those_of_the_whole(cache_file, cache, tmp_path):
    first = prune(str(cache_file), str(tmp_path / "a.h5"), rows="100-199,500-599")
    second = open_cache(prune(str(first), str(tmp_path / "b.h5"), rows="99-101"))
    assert second.meta["source"]["kept"] == [[199, 199], [500, 501]]
    assert np.array_equal(second.digests, cache.digests[[199, 500, 501]])
    with pytest.raises(UsageError, match="a cache of all rows of its data"):
        open_data(str(first), fraction=0.5)


WRONG_ROWS = {
    "5,5": "each once", "9-3": "each once", "0-5,3": "each once", "0-1300": "rows from 0 to 1299, found 1300",
    "0-99999999999999": "rows from 0 to 1299", "x": "rows and spans of them, or a file", "-3": "or a file",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG_ROWS)
def test_rows_that_are_none_are_refused(cache_file, tmp_path, text):
    with pytest.raises(UsageError, match=WRONG_ROWS[text]):
        prune(str(cache_file), str(tmp_path / "a.h5"), rows=text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [[], [[]], [[0, 9], []], [[5, 3]], [[0, 2000]], [[0, 1 << 39]], [[3, 3], [3, 3]]])
def test_a_header_that_lies_about_its_rows_is_refused(cache_file, tmp_path, kept):
    small = open_cache(prune(str(cache_file), str(tmp_path / "a.h5"), rows="0-9"))
    small.meta["source"]["kept"] = kept
    with pytest.raises(KdcacheError):
        Data.of_cache(small)


@pytest.mark.usefixtures("in_tmp")
def test_named_rows_as_a_command(tmp_path):
    good(TEACHER)
    good(f"{DUMP} -o {tmp_path}/x.h5")
    listed = good("list rows --data synthetic:64,4,16").out.splitlines()
    (tmp_path / "rows.txt").write_text("\n".join(listed[3:40:2]))
    found = good(f"prune {tmp_path}/x.h5 -o {tmp_path}/y.h5 --rows {tmp_path}/rows.txt --json").json()
    assert found["rows"] == 19
    assert good(f"verify {tmp_path}/y.h5 --teacher tiny-3").out.count("FAIL") == 0
    for more in ("", "--live"):
        good(f"{STUDENT} --cache {tmp_path}/y.h5 {more} --out {tmp_path}/run")
    (tmp_path / "rows.txt").write_text("3\nfour\n")
    refused(f"prune {tmp_path}/x.h5 -o {tmp_path}/z.h5 --rows {tmp_path}/rows.txt", 2, "found none in line 2")
    refused(f"prune {tmp_path}/x.h5 -o {tmp_path}/z.h5 --rows 1 --fraction 0.5", 2, "no --fraction beside it")
