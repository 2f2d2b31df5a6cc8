"""Files that are made up, with a right seal: what no header may say, and what it says has to be there."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_cases import everything, forged, mark, refused

from kdcache.cache import open_cache
from kdcache.cache.layout import read_layout
from kdcache.cache.meta import FORM
from kdcache.codecs import CODECS, named
from kdcache.errors import CacheError


@pytest.fixture
def forge(cache_file, tmp_path):
    return partial(forged, cache_file, tmp_path / "forged.h5")


def test_a_forged_file_without_a_change_is_fine(forge, cache_file):
    assert everything(forge()) == everything(cache_file)


SHAPES = {
    "labels": [np.zeros(1299, "<i4"), np.zeros((1300, 1), "<i4"), np.zeros(1300, ">i4"), np.zeros(1300, "<f4")],
    "seeds": [np.zeros((3, 1301), "<u8"), np.zeros((4, 1300), "<u8"), np.zeros((3, 1300), "<i8")],
    "blocks/seeds": [np.zeros((3, 1), "<u8"), np.zeros(6, "<u8"), None],
    "knowledge/logits": [np.zeros((3, 1300, 10), "<f2"), np.zeros((3, 1300), "V20"), np.zeros((3, 1300), "<f2")],
    "eval/logits": [None],
    "canaries/row": [None, np.zeros(3, "<i8"), np.full(64, 1300)],
    "canaries/view": [np.full(64, -1)],
    "canaries/logits": [np.zeros(64, "V8"), np.zeros((5, 10), "<f4"), np.full((64, 10), np.nan, "<f4")],
    "canaries/thumb": [np.zeros((64, 3, 8, 7), "u1"), np.zeros((64, 3, 8, 8), "f4")],
    "constants/x": [np.zeros(4, "V8"), np.zeros(4, [("real", "<f4"), ("imag", "<f4")])],
}


@pytest.mark.parametrize(("name", "array"), [(n, a) for n, arrays in SHAPES.items() for a in arrays])
def test_types_shapes_and_values_that_the_header_does_not_promise(forge, name, array):
    refused(forge({name: array}))


@pytest.mark.parametrize("label", [-2, 10, 2**31 - 1])
def test_labels_beyond_the_classes(forge, label):
    assert "/labels" in refused(forge({"labels": np.full(1300, label, "<i4")}))


TEXTS = {
    "empty": b" ",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "a string": b'"kdcache"',
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "many digits": b'{"format": ' + b"9" * 5000 + b"}",
    "null": b"null",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_headers_that_are_no_header(forge, text):
    refused(forge(meta=text))


def changed(*path, value=None):
    """A header with one entry changed, or taken out where no value is given."""

    def change(meta: dict) -> dict:
        inner = meta
        for name in path[:-1]:
            inner = inner[name]
        inner.pop(path[-1]) if value is None else inner.update({path[-1]: value})
        return meta

    return change


WRONG = [1, -1, 0, 2**70, 1.5, True, "x", [], {}, [{}], ["x"], {"x": 1}, "\ud800\n\x1b[31m"]
FITTING = {  # what is as good as the truth, as far as a reader can know
    "run_key": [1, -1, 0], "method": ["x", WRONG[-1]], "codec": ["x", WRONG[-1]], "teacher": [{}, {"x": 1}],
    "forward": [{}, {"x": 1}], "libraries": [{}],
}  # fmt: skip


@pytest.mark.parametrize("name", FORM)
def test_header_entries_of_another_kind(forge, name):
    for value in WRONG:
        if not any(value is other or (value == other and value is not True) for other in FITTING.get(name, [])):
            refused(forge(meta=changed(name, value=value)))


def test_a_loss_is_a_text(forge):
    assert "a sensible loss" in refused(forge(meta=changed("loss", value={"x": 1})))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have(forge, number):
    assert "/meta: expected JSON, found" in refused(forge(meta=changed("teacher", "x", value=number)))


PARTS = [(n, m) for n in ("source", "view", "eval") for m in FORM[n] if not m.endswith("?")]


@pytest.mark.parametrize("path", [(n,) for n in FORM] + PARTS)
def test_header_entries_that_are_missing(forge, path):
    assert path[-1] in refused(forge(meta=changed(*path)))


NUMBERS = [-1, 1299, 1301, 2**33, 2**39, 2**63, 1.0, True, "1300", [1300]]


@pytest.mark.parametrize("path", [("source", "rows"), ("views",), ("block_rows",), ("eval", "rows")])
@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_rows_views_and_blocks(forge, path, number):
    refused(forge(meta=changed(*path, value=number)))


def test_versions_and_features(forge):
    assert "found version 3; read it with the kdcache that wrote it" in refused(forge(meta=changed("version", value=3)))
    assert "version" in refused(forge(meta=changed("version", value="1")))
    assert "header" in refused(forge(meta=changed("format", value="other")))
    found = refused(forge(meta=changed("requires", value=["sparse", "zstd\n"])))
    assert "found ['sparse', 'zstd\\n']; update kdcache" in found
    assert "requires" in refused(forge(meta=changed("requires", value=[[]])))


CODEC_HEADERS = [
    {}, {"codec": "f16"}, {"codec": "zip", "shape": [10]}, {"codec": [], "shape": [10]}, {"codec": "f16", "shape": 10},
    *({"codec": "f16", "shape": s} for s in ([0], [-1], [2**40], [2**70], [1e400], [9] * 50, ["x"], [None], {}, [5])),
    *({"codec": "int8", "shape": [10], "unit": u} for u in (0, 3, -1, 1e400, "x", [1], 10**400, None)),
    *({"codec": "topk", "shape": [10], "k": k} for k in (0, 11, 2**70, "x", 1.5, None, [3])),
    {"codec": "topk", "shape": [10], "k": 3, "wide": -1}, {"codec": "topk", "shape": [2, 5], "k": 3},
    *({"codec": "logp8", "shape": [10], "knots": k} for k in (None, 3, [], ["x"] * 18, [0] * 18, list(range(1, 19)))),
    {"codec": "f16", "shape": [10], "more": 1}, {"codec": "f32", "shape": [10]}, {"codec": "bits", "shape": [160]},
]  # fmt: skip


@pytest.mark.parametrize("header", CODEC_HEADERS, ids=lambda header: json.dumps(header)[:60])
def test_codec_headers(forge, header):
    refused(forge(meta=changed("knowledge", value={"logits": header})))


@pytest.mark.parametrize("name", ["../labels", "", "x", "logits/x", "\ud800", "a\nb"])
def test_names_of_knowledge(forge, name):
    refused(forge(meta=changed("knowledge", value={name: {"codec": "f16", "shape": [10]}})))


FORMS = [
    *(("teacher", "shapes", value) for value in ([1], {"logits": 10}, {"logits": [0]}, {"logits": ["x"]}, "x")),
    *(("teacher", name, value) for name in ("kind", "model", "fingerprint") for value in (1, [], {})),
    *(("forward", "batch", value) for value in (0, -1, 2.5, "8", True)),
    *(("forward", name, value) for name in ("channels_last", "tf32", "compile") for value in (1, "no", [])),
    *(("forward", "dtype", value) for value in (1, [])), *(("view", "of", value) for value in (1, [], "x")),
    *(("measured", "logits", value) for value in (1, [1], [{}], [{"codec": "f16", "bytes": 0}])),
    *(("measured", "logits", [{"codec": "f16", "bytes": 20, "kl": kl}]) for kl in (1, {"1": {}}, {"x": {"mean": 1}})),
    ("measured", "other", []),
]  # fmt: skip


@pytest.mark.parametrize(("part", "name", "value"), FORMS)
def test_entries_that_may_be_missing_have_a_form(forge, part, name, value):
    assert part in refused(forge(meta=changed(part, name, value=value)))


@pytest.mark.parametrize("size", [[8], [8, 8, 8], [0, 8], [-8, 8], [8.5, 8], [2**40, 8], 8, "88", [True, 8]])
def test_sizes_of_views(forge, size):
    assert "view" in refused(forge(meta=changed("view", "size", value=size)))


def test_every_codec_is_attacked():
    assert {header.get("codec") for header in CODEC_HEADERS if isinstance(header.get("codec"), str)} >= set(CODECS)


def test_a_header_that_is_too_long(forge, monkeypatch):
    monkeypatch.setattr("kdcache.cache.layout.LONGEST", 100)
    assert "a header of at most 100 bytes" in refused(forge())


@pytest.mark.parametrize("count", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_structures_that_a_stranger_changed(count):
    command = [sys.executable, Path(__file__).parent / "attacks" / "headers.py", "--count", str(count), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    counts = json.loads(done.stdout)["structures"]
    assert sum(counts.values()) == count
    assert counts["refused"] > count / 2


# Records that no encoder wrote


@pytest.mark.parametrize("codec", ["topk:3", "topk:10"])
def test_ids_of_classes_that_do_not_exist(dump, tmp_path, codec):
    source = dump(tmp_path / "x.h5", codec=codec, views=1)
    path = Path(shutil.copy(source, tmp_path / "forged.h5"))
    layout = read_layout(path)
    offset, length, rows = layout.span("knowledge/logits", 0, 0)
    records = np.frombuffer(path.read_bytes()[offset : offset + length], np.uint8).reshape(rows, -1).copy()
    records[5, layout.codecs["logits"].starts[2] :] = 255
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), records.tobytes(), offset)
    word = layout.word("knowledge/logits", 0, 0, records.tobytes())
    mark(path, "knowledge/logits", 0, 0, word.to_bytes(8, "little"))
    with pytest.raises(CacheError, match="expected intact data, found class 15 of 10 in block 0 of view 0"):
        open_cache(path).read(0, [7])
    assert open_cache(path, check=False).read(0, [5])["logits"].shape == (1, 10)
    refused(path)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("classes", [2, 5, 10, 130, 1000])
def test_any_bytes_decode_to_something(codec, classes):
    fitted = named(f"{codec}:2" if codec == "topk" else codec, torch.randn(64, classes))
    generator = np.random.default_rng(0)
    for records in (generator.integers(0, 256, (500, fitted.size)), np.full((3, fitted.size), 255)):
        decoded = fitted.decode(torch.from_numpy(records.astype(np.uint8)))
        assert decoded.shape == (len(records), classes)
        if codec == "topk":
            ids, _, _ = fitted.pairs_in_torch(torch.from_numpy(records.astype(np.uint8)))
            assert 0 <= int(ids.min()) <= int(ids.max()) < classes
