"""Files and pixels of the past: `golden/make.py` made them with the code of their time, and today's has to agree."""

import numpy as np
import pytest
import torch
from cli_cases import good
from golden import make
from golden_cases import folder_of_old

from kdcache.cache import open_cache

VERSIONS = sorted(path.stem for path in make.PLACE.glob("*.zip"))
LOGITS = ["f16", "int8", "logp8", "topk"]


@pytest.fixture(scope="module", params=VERSIONS)
def old(request, tmp_path_factory):
    """A folder with the files of one version, and everything that was in them."""
    folder = folder_of_old(request.param, tmp_path_factory.mktemp("golden"))
    with np.load(make.PLACE / f"{request.param}.npz") as stored:
        return folder, dict(stored)


def below(stored: dict, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Bit for bit, types and all."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name].view(np.uint8), value.view(np.uint8), err_msg=name)


@pytest.mark.parametrize("name", make.CACHES)
def test_an_old_cache_reads_as_it_did(old, name):
    folder, stored = old
    same(make.content(open_cache(folder / f"{name}.h5")), below(stored, f"cache/{name}/"))


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_encoded_as_they_were(old, name):
    folder, stored = old
    codec = open_cache(folder / f"{name}.h5").layout.codecs["logits"]
    values = stored["cache/f32/knowledge/logits"]
    expected = stored[f"cache/{name}/records/logits"]
    records = codec.encode(torch.from_numpy(values.reshape(-1, values.shape[-1])))
    np.testing.assert_array_equal(records.numpy(), expected.reshape(records.shape))


@pytest.mark.parametrize("name", make.CACHES)
def test_an_old_cache_is_proven(old, name, monkeypatch):
    """`verify` renders the canaries, and asks the teacher where the file has its answers."""
    folder, stored = old
    monkeypatch.chdir(folder)
    asked = name in make.DUMPED and f"cache/{name}/canaries/logits" in stored
    good(f"verify {name}.h5 {make.TEACHER if asked else ''}")


@pytest.mark.parametrize("name", make.CACHES)
def test_the_same_request_makes_the_same_cache(old, name, tmp_path, monkeypatch):
    """Seeds, pixels, labels and images to the bit; what a network says, as far as processors agree."""
    folder, stored = old
    monkeypatch.chdir(folder)
    good(f"{make.CACHES[name]} -o {tmp_path}/again.h5")
    found, expected = make.content(open_cache(tmp_path / "again.h5")), below(stored, f"cache/{name}/")
    exact = {"labels", "digests", "seeds", "canaries/row", "canaries/view", "canaries/crc", "canaries/thumb"}
    exact &= expected.keys()
    same({key: found[key] for key in exact}, {key: expected[key] for key in exact})
    for key in [key for key in expected if key not in exact and not key.startswith("records/")]:
        near = np.isclose(found[key], expected[key], rtol=0.01, atol=0.01 * np.abs(expected[key]).max())
        assert near.mean() > 0.99, key  # next to zero a sign may turn, and two classes of a like change places


def test_shards_of_old_make_the_whole_of_old(old):
    folder = old[0]
    assert (folder / "merged.h5").read_bytes() == (folder / "f16.h5").read_bytes()


@pytest.mark.parametrize("name", make.PIXELS)
def test_pixels_are_what_they_were(old, name):
    same(make.pixels(name), below(old[1], f"pixels/{name}/"))


def test_draws_are_what_they_were(old):
    same(make.drawn(), below(old[1], "drawn/"))
