"""Every codec of the table: what it keeps, to what error, in how many bytes, and what it refuses."""

import math
import re

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference_codecs import check, fitted, synthetic

from kdcache.codecs import CODECS, F32, Bits, Int8, TopK, from_json, named
from kdcache.errors import CacheError, UsageError

QUICK = settings(max_examples=40, deadline=None, derandomize=True, database=None)
RAW = ("f32", "f16", "int8", "bits")  # codecs of any values; the others are of class logits


def rows(elements, least=2, most=40):
    """A few rows of between `least` and `most` values."""
    shapes = st.tuples(st.integers(1, 4), st.integers(least, most))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=elements)).map(torch.from_numpy)


ORDINARY = rows(st.floats(-50, 50, width=32))
WIDE = rows(st.floats(-60000, 60000, width=32))
TIED = rows(st.sampled_from([-3.0, -0.0, 0.0, 1.0, 1.0009765625, 7.5]))
ANY = st.one_of(ORDINARY, WIDE, TIED)


@pytest.mark.parametrize("name", CODECS)
@given(values=ANY)
@QUICK
def test_decoded_is_within_the_bound(name, values):
    for codec in fitted(name, values):
        decoded = check(codec, values)
        p = torch.softmax(decoded.double(), 1)
        assert (p >= 0).all()
        torch.testing.assert_close(p.sum(1), torch.ones(len(p), dtype=torch.float64))


@pytest.mark.parametrize("name", CODECS)
@given(values=ANY)
@QUICK
def test_the_answer_is_read_off_the_bytes(name, values):
    for codec in fitted(name, values):
        records = codec.encode(values)
        decoded = codec.decode(records)
        said = torch.from_numpy(codec.top1(records.numpy()).astype(np.int64))
        assert torch.equal(decoded.gather(1, said[:, None])[:, 0], decoded.amax(1))


@pytest.mark.parametrize("name", ["f32", "int8", "bits"])
@given(values=rows(st.floats(-(2.0**126), 2.0**126, width=32)))
@QUICK
def test_the_whole_range_of_floats(name, values):
    check(CODECS[name].fit(values), values)


@pytest.mark.parametrize("name", CODECS)
@given(values=ANY, other=ANY)
@QUICK
def test_rows_that_go_beyond_the_sample_are_counted_and_stay_within_the_bound(name, values, other):
    other = other[:, :2].repeat(1, values.shape[1])[:, : values.shape[1]]
    if name == "int8":  # it has much room, and refuses what is beyond
        other = other.clamp(-64 * values.abs().max(), 64 * values.abs().max())
    for codec in fitted(name, values):
        check(codec, other)
        assert not codec.clipped(values).any()
        assert codec.clipped(other).shape == (len(other),)


@given(values=st.one_of(ORDINARY, TIED))
@QUICK
def test_topk_keeps_the_mass_of_the_tail_and_the_answer(values):
    for codec in fitted("topk", values):
        decoded = codec.decode(codec.encode(values)).double()
        kept = codec.split(values)[0]
        mass, right = (torch.softmax(x.double(), 1).scatter(1, kept, 0).sum(1) for x in (decoded, values))
        torch.testing.assert_close(mass, right, rtol=0.04, atol=1e-9)  # f16 at a depth of 32 to 64
        if codec.k > 1:
            assert torch.equal(decoded.gather(1, values.argmax(1, keepdim=True))[:, 0], decoded.amax(1))


def test_equal_logits_are_kept_from_the_lowest_class_up():
    values = torch.tensor([[1.0, 5.0, -0.0, 5.0, 0.0, 5.0]])
    assert TopK.fit(values, 5).split(values)[0].tolist() == [[1, 3, 5, 0, 2]]


@pytest.mark.parametrize("classes", [2, 3, 10, 255, 257, 1000, 100_000])
def test_any_number_of_classes(classes):
    values = synthetic(3, classes)
    values[2] = 0  # and a row of ties
    for name in CODECS:
        codec = TopK.fit(values, min(100, classes)) if name == "topk" else CODECS[name].fit(values)
        check(codec, values)
    assert codec.encode(values[:0]).shape == (0, codec.size)
    assert codec.decode(codec.encode(values[:0])).shape == (0, classes)


@pytest.mark.parametrize("k", range(1, 40))
def test_class_ids_of_32_bits(k):
    codec = TopK((2**32,), k, wide=min(4, k - 1))
    ids = torch.cat([torch.tensor([2**32 - 1, 0, 2**31, 1]), torch.arange(k) * 104_729_567 % 2**32])[:k].repeat(2, 1)
    logits = -torch.arange(k, dtype=torch.float64).repeat(2, 1) / 8
    records = codec.pack_pairs(ids, logits, torch.zeros(2, 1))
    assert records.shape == (2, codec.size)
    found, decoded, level = codec.decode_pairs(records)
    assert torch.equal(found, ids)
    torch.testing.assert_close(decoded, logits.float(), rtol=0, atol=0.01)
    torch.testing.assert_close(level, torch.full((2, 1), -math.log(2**32 - k)), rtol=0, atol=0.02)


@pytest.mark.parametrize("width", range(1, 33))
def test_class_ids_of_any_width(width):
    codec = TopK((2**width,), min(2**width, 13))
    ids = (torch.arange(2 * codec.k) * 2_654_435_761 % 2**width).view(2, -1)
    records = codec.pack_pairs(ids, torch.zeros(2, codec.k, dtype=torch.float64), torch.zeros(2, 1))
    assert torch.equal(codec.decode_pairs(records)[0], ids)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (16, 4, 4)])
@pytest.mark.parametrize("name", RAW)
def test_feature_maps(name, shape):
    values = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    decoded = check(CODECS[name].fit(values), values)
    if name == "bits":
        assert torch.equal(decoded, (values > 0).float())


@pytest.mark.parametrize("constant", [0.0, -0.0, 0.1, 1000.2, -60000.5, 1e-8])
def test_constant_rows(constant):
    values = torch.full((2, 10), constant)
    for name in CODECS:
        for codec in fitted(name, values):
            check(codec, values)


@pytest.mark.parametrize("name", CODECS)
def test_a_record_depends_on_its_row_alone(name):
    values = synthetic(20, 30)
    codec = CODECS[name].fit(values)
    records = codec.encode(values)
    assert torch.equal(records[7:8], codec.encode(values[7:8]))
    apart = torch.zeros(20, codec.size + 3, dtype=torch.uint8)[:, 1:-2].copy_(records)  # odd offset and stride
    assert torch.equal(codec.decode(apart), codec.decode(records))
    assert torch.equal(codec.decode(records[7:8]), codec.decode(records)[7:8])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", CODECS)
def test_values_that_are_not_finite_are_refused(name, bad):
    values = torch.zeros(4, 10)
    codec = CODECS[name].fit(values)
    values[2, 3] = bad
    with pytest.raises(UsageError, match=rf"codec {name}: expected finite values, found {bad} in row 2 of 4 .*; check"):
        codec.encode(values)


def test_what_else_is_refused():
    big, small = torch.full((2, 10), 7e4), torch.zeros(2, 10)
    for name in ("f16", "topk"):
        with pytest.raises(UsageError, match="values up to 65504, found 70000; take `codec` f32"):
            CODECS[name].fit(big).encode(big)
    with pytest.raises(UsageError, match="values up to 65504"):
        Int8.fit(small).encode(big)
    with pytest.raises(UsageError, match=r"rows of shape \(10,\), found \(9,\)"):
        F32.fit(small).encode(small[:, 1:])
    for name in ("int8", "logp8", "topk"):
        with pytest.raises(UsageError, match="rows to measure its range on"):
            CODECS[name].fit(small[:0])
    for name in ("logp8", "topk"):
        with pytest.raises(UsageError, match="one logit per class"):
            CODECS[name].fit(torch.zeros(2, 3, 4))
    for k in (0, 11):
        with pytest.raises(UsageError, match=rf"found {k} of 10"):
            TopK.fit(small, k)


@pytest.mark.parametrize(
    "change",
    [
        {"codec": "int3"},
        {"shape": [0]},
        {"shape": None},
        {"codec": "int8", "unit": 0.3},
        {"codec": "int8", "unit": "1"},
        {"codec": "int8", "colour": 1},
        {"codec": "topk", "k": 11},
        {"codec": "topk", "k": 2.5},
        {"codec": "topk", "k": 5, "wide": 5},
        {"codec": "topk", "k": 5, "unit": math.inf},
        {"codec": "logp8", "knots": [0, 1]},
        {"codec": "logp8", "knots": [0, *range(17)]},
        {"codec": "logp8", "knots": []},
    ],
)
def test_headers_that_cannot_be(change):
    with pytest.raises(CacheError, match=r"x\.h5: expected"):
        from_json("x.h5", {"codec": "f32", "shape": [10]} | change)


@pytest.mark.parametrize("name", CODECS)
def test_hdf5_shows_the_record(name, tmp_path):
    values = synthetic(6, 300)
    for codec in [TopK.fit(values, 60)] if name == "topk" else fitted(name, values):
        records = codec.encode(values).numpy()
        named = codec.dtype.names
        table = (
            records.view(codec.dtype)[:, 0] if named else records.view(codec.dtype.base).reshape(6, *codec.dtype.shape)
        )
        with h5py.File(tmp_path / "x.h5", "w") as file:
            stored = file.create_dataset("x", (6,), codec.dtype)
            assert stored.dtype == codec.dtype
            stored[...] = table
        with h5py.File(tmp_path / "x.h5") as file:
            assert file["x"][:].tobytes() == records.tobytes()
            assert file["x"].dtype.names in (
                None,
                ("scale", "offset", "codes"),
                ("head", "tail", "wide", "gaps", "ids"),
            )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("name", CODECS)
def test_both_devices_decode_the_same_floats(name, classes):
    values = synthetic(500, classes)
    for codec in [TopK.fit(values, k) for k in (5, 10, classes // 10 * 3)] if name == "topk" else fitted(name, values):
        records = codec.encode(values)
        assert torch.equal(codec.decode(records.cuda()).cpu(), codec.decode(records))
        on_gpu = codec.decode(codec.encode(values.cuda())).cpu().double()
        assert ((on_gpu - codec.ideal(values)).abs() <= codec.bound(values)).all()


@pytest.mark.parametrize(("k", "classes"), [(1, 2), (2, 2), (5, 10), (16, 1000), (25, 100), (100, 1000), (16, 100_000)])
def test_numpy_and_torch_decode_the_same_pairs(k, classes):
    values = torch.randn(40, classes, generator=torch.Generator().manual_seed(k)) * 4
    codec = TopK.fit(values, k)
    whole = codec.encode(values)
    for records in (whole, whole[:0], whole[3:4], whole[::2], whole.clone()[:, : codec.size]):
        mine, theirs = codec.pairs_in_numpy(records.numpy()), codec.pairs_in_torch(records)
        for one, other in zip(mine, theirs, strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(torch.from_numpy(one), other)


def test_names_and_labels():
    assert [codec.name for codec in CODECS.values()] == list(CODECS)
    assert TopK.fit(torch.zeros(1, 9), 4).label == "topk:4"
    assert Bits.fit(torch.zeros(1, 9)).size == 2
    assert [name for name, codec in CODECS.items() if not codec.keeps_shift] == ["logp8", "bits"]


@pytest.mark.parametrize("name", CODECS)
def test_a_label_names_the_codec_again(name):
    values = synthetic(20, 30)
    for codec in [TopK.fit(values, k) for k in (1, 7, 30)] if name == "topk" else fitted(name, values):
        assert named(codec.label, values) == codec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("topk:0", "expected topk:K with a K from 1, found 'topk:0'"),
        ("topk:-1", "found 'topk:-1'"),
        ("topk:99999999999", "expected topk:K"),
        ("int8:3", "found 'int8:3'"),
        ("itn8", "did you mean int8?"),
        ("zip", "list codecs"),
    ],
)
def test_a_strange_codec_is_refused(text, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        named(text, synthetic(20, 30))
