"""The reader that other projects copy: it reads files of every codec, finds damage, and is as short as it says."""

import ast
import runpy
from pathlib import Path

import numpy as np
import pytest
from golden import make
from golden_cases import folder_of_old

import kdcache.read
from kdcache.bench.fixture import made_cache

PLACE = Path(__file__).parents[1] / "docs" / "examples" / "reader.py"
READER = runpy.run_path(str(PLACE))


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return folder_of_old("v1", tmp_path_factory.mktemp("golden"))


def agrees(path):
    cache = kdcache.read.open_cache(path)
    rows = np.random.default_rng(0).integers(0, len(cache), 64)
    for name in cache.names:
        for view in range(cache.views):
            found = READER["read"](path, view, rows, name)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, cache.read(view, rows, [name])[name])


@pytest.mark.parametrize("name", make.CACHES)
def test_it_reads_files_of_version_1(old, name):
    agrees(old / f"{name}.h5")


@pytest.mark.parametrize("codec", ["f32", "f16", "int8", "logp8", "topk:7", "topk:30"])
def test_it_reads_files_of_today(codec, tmp_path):
    agrees(made_cache(tmp_path / "a.h5", 1100, 30, 2, codec))


def test_it_finds_damage(tmp_path):
    path = made_cache(tmp_path / "a.h5", 1100, 4, 2)
    place = kdcache.read.open_cache(path).layout.places["knowledge/logits"]
    data = bytearray(path.read_bytes())
    data[place.offset + place.nbytes - 1] ^= 1
    path.write_bytes(data)
    assert READER["read"](path, 1, [5]).shape == (1, 4)
    with pytest.raises(ValueError, match="block 1 of view 1 is damaged"):
        READER["read"](path, 1, [5, 1050])


def test_it_is_short_and_needs_numpy_alone():
    text = PLACE.read_text()
    tree = ast.parse(text)
    parts = [node.body[0] for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef)]
    told = {line for part in parts if isinstance(part, ast.Expr) for line in range(part.lineno, part.end_lineno + 1)}
    lines = [line for number, line in enumerate(text.splitlines(), 1) if line.strip() and number not in told]
    assert len(lines) <= 60
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"json", "numpy", "zlib"}
