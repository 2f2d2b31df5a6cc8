"""Every bench runs to its end on a few rows, and its results have the right form; what they say is not tested."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import good, kdcache, refused

from kdcache import bench
from kdcache.bench import (
    codecs,
    dump,
    embeddings,
    live,
    methods,
    pack,
    page,
    process,
    read,
    replay,
    scale,
    settings,
    timing,
    together,
    train,
    workers,
)
from kdcache.cli import study
from kdcache.methods import METHODS
from kdcache.teachers import Forward
from kdcache.types import quiet
from kdcache.views.pipeline import one_thread

FIGURE = {"name": str, "median": float, "low": float, "high": float, "unit": str, "bar": str}
FEW_METHODS = {name: METHODS[name] for name in ("none", "st", "fitnet", "ab", "dml", "reviewkd", "crd", "queue")}
SMALL = {
    "read": [(read, {"ROWS": 300, "MANY": 300, "BATCH": 8, "BATCHES": 2, "ROUNDS": 2})],
    "replay": [(replay, {"ROUNDS": 2, "CASES": [(*case[:2], 4, *case[3:]) for case in replay.CASES]})],
    "dump": [(dump, {"ROWS": 8, "BATCH": 8, "MODEL": "tiny-3", "SETTINGS": {"f32": (Forward(8), 2)}})],
    "train": [(train, {"ROWS": 32, "BATCH": 8, "STUDENTS": {"tiny-3": 2}})],
    "live": [(live, {"ROWS": 32, "BATCH": 8, "STUDENTS": {"tiny-2": 2}, "TEACHER": "tiny-3"})],
    "settings": [
        (settings, {"ROWS": 32, "BATCH": 8, "MODEL": "tiny-2", "ROUNDS": 2, "SETTINGS": {"f32": {}, "f32, again": {}}})
    ],
    "workers": [(workers, {"FILES": 12, "SIDE": 72, "CLASSES": 2, "BATCH": 4, "WORKERS": 1, "ROUNDS": 2})],
    "pack": [
        (workers, {"CLASSES": 2}),
        (pack, {"FILES": 12, "SIDE": 72, "BATCH": 4, "WORKERS": 1, "ROUNDS": 2}),
    ],
    "together": [
        (workers, {"CLASSES": 2}),
        (together, {"FILES": 12, "SIDE": 72, "BATCH": 4, "WORKERS": 1, "ROUNDS": 2, "METHODS": ["none", "st"]}),
    ],
    "methods": [
        (
            methods,
            {
                "ROWS": 16,
                "BATCH": 4,
                "ROUNDS": 1,
                "METHODS": FEW_METHODS,
            },
        )
    ],
    "codecs": [(codecs, {"ROWS": 64, "CLASSES": 12})],
    "embeddings": [(embeddings, {"ROWS": 20, "BATCH": 8, "BATCHES": 2, "TEACHER": "tiny-3"})],
    "scale": [(process, {"BATCHES": 2}), (scale, {"READERS": 2, "ROUNDS": 2})],
}
ASKED = {"scale": {"rows": 3000, "classes": 20, "views": 2}}


LONG = {"scale"}  # six processes, each with a torch of its own


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in SMALL])
def found(request, monkeypatch, tmp_path) -> tuple[str, dict]:
    """The name of a bench, and what it found on a few rows."""
    monkeypatch.chdir(tmp_path)
    for module, sizes in SMALL[request.param]:
        for name, value in sizes.items():
            monkeypatch.setattr(module, name, value)
    result = bench.BENCHES[request.param](quiet, **ASKED.get(request.param, {}))
    assert list(tmp_path.iterdir()) == []
    return request.param, result


def test_results_have_one_form(found):
    name, result = found
    assert isinstance(result["what"], str)
    assert result.get("figures") or result.get("rows")
    for figure in result.get("figures", []):
        assert {key: type(value) for key, value in figure.items()} == FIGURE
        assert figure["low"] <= figure["median"] <= figure["high"]
    json.dumps(result)
    page = bench.text(name, result)
    assert page.startswith(f"{name}: {result['what']}\n")
    assert all(figure["name"] in page for figure in result.get("figures", []))


def test_every_bench_is_tried_here():
    assert list(SMALL) == list(bench.BENCHES) == list(study.BENCHES)


def test_a_figure_has_quartiles():
    times = {"a": [1.0, 2.0, 4.0], "b": [1.0, 1.0, 1.0]}
    assert timing.ratio(times, "a / b", "a", "b") == {
        "name": "a / b", "median": 2.0, "low": 1.0, "high": 4.0, "unit": "", "bar": "the noise",
    }  # fmt: skip
    assert timing.rate(times, "a", "a", 8, "rows/s")["median"] == 4


def test_sides_take_turns():
    said = []
    sides = {name: lambda name=name: said.append(name) for name in "ab"}
    times = timing.alternate(sides, 2, quiet, "")
    assert said == list("ababba")
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


FIGURES = [  # the limit, the quartiles, the verdict
    ("2 million or more", (1e6, 3e6, 4e6), "met, within the quartiles"),
    ("150 thousand or more", (1e5, 1.2e5, 1.4e5), "**not met**"),
    ("1.02 or less", (1.00, 1.03, 1.04), "**not met**, within the quartiles"),
    ("3 or less", (1, 2, 2.5), "met"),
    ("the noise", (1, 2, 2.5), ""),
    ("4.877, the ideal", (1, 2, 2.5), ""),
]


@pytest.mark.parametrize(("bar", "values", "verdict"), FIGURES)
def test_limits_are_met_or_not(bar, values, verdict):
    assert page.judged(dict(zip(("low", "median", "high"), values, strict=True)) | {"bar": bar}) == verdict


@pytest.fixture
def two_benches(monkeypatch):
    """One that finds something, and one that fails."""
    figure = timing.figure("speed", [2e6, 3e6], "rows/s", "2 million or more")
    found = {"a": lambda progress: {"what": "something", "figures": [figure]}, "b": lambda progress: 1 / 0}
    monkeypatch.setattr(bench, "BENCHES", found)


@pytest.mark.usefixtures("two_benches", "in_tmp")
def test_a_page_is_made_anew_above_its_remarks():
    for line in ("bench -o x.md", "bench all -o x.md"):
        assert kdcache(line).code == 1
        text = Path("x.md").read_text()
        assert text.startswith(f"# Speed\n\n`kdcache {line}`, ")
        assert "| a | speed | 2 million or more | 2,500,000 rows/s | met, within the quartiles |" in text
        assert "b: failed, ZeroDivisionError" in text
        assert text.count(page.REMARKS) == 1
        Path("x.md").write_text(f"{text.partition(page.REMARKS)[0]}{page.REMARKS}\nSaid by hand.\n")
    assert text.endswith(f"{page.REMARKS}\nSaid by hand.\n")


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


# The codecs on one's own logits


@pytest.mark.usefixtures("home")
def test_codecs_of_a_cache(tmp_path):
    line = f"bench codecs --cache a.h5 --plot {tmp_path}/x.png"
    found = good(f"{line} --json").json()["codecs"]
    labels = [row["codec"] for row in found["rows"]]
    assert {"f32", "f16", "int8", "logp8"} <= set(labels)
    assert {found["auto"], found["auto_raw"]} <= set(labels)
    assert found["rows"] == sorted(found["rows"], key=lambda row: row["bytes"])
    assert found["notes"] == ["the file holds f16: errors are beside what it holds, not beside what the teacher said"]
    assert all(row["kl"].keys() == {"1", "2", "4", "10"} for row in found["rows"])
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")
    marked = [row.split()[1] for row in good(line).out.splitlines() if row.startswith("> ")]
    assert found["auto"] in marked


def test_codecs_see_rows_of_every_view(cache):
    assert len(codecs.sample(cache)) == len(cache) * cache.views
    few = codecs.MOST // 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codecs, "MOST", few)
        assert few * 0.7 < len(codecs.sample(cache)) <= few


def test_codecs_beyond_their_range_are_shown(monkeypatch, tmp_path):
    logits = torch.randn(32, 8) * 1e6
    monkeypatch.setattr(codecs, "sample", lambda _: logits)
    monkeypatch.setattr(codecs, "ROWS", 16)
    found = codecs.bench_codecs(quiet, plot=str(tmp_path / "x.png"))
    assert [row["codec"] for row in found["rows"] if "refused" in row].count("f16") == 1
    assert "f16: " in found["text"]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bench read --cache a.h5", ["--cache", "`bench codecs`"]),
        ("bench train --rows 5", ["--rows", "`bench scale`"]),
        ("bench read -o a.h5", ["--out", "a page of an earlier bench"]),
        ("bench codecs --plot .", ["--plot", "a file"]),
        ("bench scale --rows 1000000000000", ["--rows", "from 1 to 1000000000", "try 1"]),
    ],
)
def test_wrong_use(line, words):
    refused(line, 2, *words)


# A large file


def test_processes_of_their_own_are_ended(tmp_path):
    job = {"do": "write", "path": str(tmp_path / "x.h5"), "rows": 2000, "classes": 20, "views": 2}
    with process.started(job) as child:
        assert process.heard(child)["bytes"] == os.path.getsize(tmp_path / "x.h5")
    assert child.poll() is not None


def test_what_scale_writes_is_a_cache(tmp_path):
    process.write(str(tmp_path / "x.h5"), 2000, 20, 2)
    from kdcache.cache import open_cache

    cache = open_cache(tmp_path / "x.h5")
    logits = cache.read(1, np.arange(2000))["logits"]
    assert logits.shape == (2000, 20)
    assert torch.equal(logits[:64], logits[64:128])
