"""Every recipe that ships runs small, and says what it would cost."""

import json
import shutil
from pathlib import Path

import pytest
from cli_cases import CPU, good, refused

from kdcache import jobs
from kdcache.models import MODELS
from kdcache.models.outline import outline
from kdcache.recipe import Recipe
from kdcache.recipe.tiny import EPOCHS, RELATIVES, VIEWS, shrunk, smallest

PIPELINES = sorted((Path(__file__).parent.parent / "pipelines").glob("*.toml"))
QUICK = {"demo.toml"}


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
@pytest.mark.parametrize("size", ["--tiny", pytest.param("--data synthetic:200,10,32", marks=pytest.mark.slow)])
def test_the_plan_of_each(path, size, monkeypatch):
    monkeypatch.setattr(jobs, "training_rate", lambda *_: 1000.0)  # large networks take seconds for a step
    monkeypatch.setattr(jobs, "answering_rate", lambda *_: 3000.0)
    found = good(f"run {path} {size} --dry-run --json {CPU}").json()
    assert (found["recipe"], found["data"]) in ((path.stem, "synthetic:200,10,32"), (f"{path.stem}-tiny", "digits"))
    assert {stage["state"] for stage in found["stages"]} <= {"missing", "not needed"}
    assert size != "--tiny" or found["bytes"] < 1e9
    assert all(stage["seconds"] > 0 for stage in found["stages"] if stage["state"] == "missing")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=() if path.name in QUICK else pytest.mark.slow) for path in PIPELINES],
    ids=lambda path: path.name,
)  # fmt: skip
def test_each_runs_tiny_and_gone_on_with_from_the_middle_it_comes_to_the_same(path):
    first = good(f"run {path} --tiny --json {CPU}").json()["rows"]
    assert all(0 <= row["top1"] <= 1 for row in first)
    students = sorted(Path("runs", f"{path.stem}-tiny").glob("*-seed*"))
    for folder in students[len(students) // 2 :]:  # what a kill leaves undone
        shutil.rmtree(folder)
    again = good(f"run {path} --tiny --json {CPU}").json()["rows"]
    strip = [[{name: row[name] for name in row if name != "seconds"} for row in rows] for rows in (first, again)]
    assert strip[0] == strip[1]


RECIPE = """
title = "Large"
data = "cifar100"
augment = "crop-flip-cutout"
seeds = [3, 4]
settings = { epochs = 240, batch = 64, warmup = 5 }
[[teacher]]
model = "resnet56"
published = 72.34
[[teacher]]
model = "resnet110"
weights = "r110.pt"
[[dump]]
teacher = "resnet110"
views = "all"
[[dump]]
teacher = "resnet56"
[[student]]
method = ["st", "at"]
model = ["resnet20", "resnet32"]
cache = "resnet110"
views = [1, 2, 5, 162]
fraction = [1, 0.1]
published = { st = 70.67 }
"""


def test_what_becomes_small():
    Path("large.toml").write_text(RECIPE)
    found = Recipe.load("large.toml", tiny=True)
    assert (found.name, found.data, found.augment, found.seeds, found.fraction) == (
        "large-tiny",
        "digits",
        None,
        1,
        0.05,
    )
    assert [(name, part.keys["model"]) for name, part in found.teachers.items()] == [
        ("resnet56", "resnet8"), ("resnet110", "resnet8"),
    ]  # fmt: skip
    assert not any({"weights", "published"} & part.keys.keys() for part in found.teachers.values())
    assert {part.keys["views"] for part in found.dumps.values()} == {VIEWS}
    assert len(found.students) == 2 * 1 * 3 * 2  # of views, those that differ
    assert {part.keys["views"] for part in found.students} == {1, 2, VIEWS}
    assert sorted({part.keys["fraction"] for part in found.students}) == pytest.approx([0.005, 0.05])
    assert found.settings_of(found.students[0], 0).to_json()["epochs"] == EPOCHS


@pytest.mark.parametrize(
    ("key", "large", "small"),
    [
        ("codec", "topk:64", "topk:4"),
        ("codec", "f16,emb=int8", "f16,emb=int8"),
        ("accumulate", 32, 2),
        ("pseudo", {"accuracy": "0.5,1,1", "calibrated": True}, {"calibrated": True}),
        ("pseudo", {"accuracy": "0.6>0.9"}, {"accuracy": "0.6>0.9"}),
    ],
)
def test_what_digits_cannot_have_becomes_what_they_can(key, large, small):
    assert shrunk({key: large}) == {key: small}


@pytest.mark.parametrize("family", MODELS, ids=lambda family: family.name)
def test_a_family_has_a_small_relative(family):
    [found] = {smallest(name) for name in family.listed}
    assert found == "tiny" or family.body.startswith(next(part for part, name in RELATIVES.items() if name == found))
    assert sum(parameter.numel() for parameter in outline(found, 10).parameters()) < 4_000_000


def test_six_teachers_are_six_networks():
    [path] = (path for path in PIPELINES if path.name == "teacher_zoo.toml")
    students = Recipe.load(path, tiny=True).students
    assert len({student.keys["model"] for student in students}) == len(students) == 6


def test_a_network_without_a_family_stays():
    assert [smallest(name) for name in ("tiny", "nets:make", "unheard-of")] == ["tiny", "nets:make", "unheard-of"]


def test_what_is_wrong_is_so_when_it_is_tiny_too():
    Path("r.toml").write_text('settings = { epochs = "3" }\n[[student]]\nmethod = "none"\n')
    refused("run r.toml --tiny", 2, "r.toml:1, [settings], epochs", "a whole number")


def test_a_cache_made_before_is_of_other_images():
    Path("made.toml").write_text('cache = "logits.h5"\n[[student]]\nmethod = "st"\n')
    refused("run made.toml --tiny", 2, "made.toml", "caches that the recipe makes", "logits.h5")


def test_what_is_there_costs_nothing():
    text = (
        "data = 'synthetic:64,4,16'\nseeds = 1\nsettings = { epochs = 1 }\n[teacher]\nmodel = 'tiny-3'\n[[student]]\n"
    )
    Path("r.toml").write_text(text + "model = 'tiny-2'")
    before = good(f"run r.toml --dry-run {CPU}").out
    assert "3 stages of 3 to do: " in before
    assert "time is reckoned from a few steps" in before
    planned = good(f"run r.toml --dry-run --json {CPU}").json()
    good(f"run r.toml {CPU}")
    (cache,) = Path("runs/r").glob("cache-*/*.h5")
    reckoned = next(stage["bytes"] for stage in planned["stages"] if stage["stage"] == "cache")
    assert reckoned == pytest.approx(64 * 10 * 16, rel=0.2)  # the sample-views of 8 + 8 bytes, then the rows
    assert reckoned < cache.stat().st_size
    after = json.loads(good(f"run r.toml --dry-run --json {CPU}").out)
    assert (after["missing"], after["bytes"], after["seconds"]) == (0, 0, 0)
