"""What docs/contributing.md adds works everywhere once its line stands in the table, and its diffs fit the tree."""

import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import DUMP, TEACHER, good, refused
from reference_views import made_images, made_seeds
from sklearn.metrics import brier_score_loss

from kdcache import codecs, sources
from kdcache.measures import MEASURES, SURE, Measure, Outcome, every
from kdcache.methods import METHODS
from kdcache.models import MODELS, table
from kdcache.views import POLICIES, VIEWS, from_json, open_view
from kdcache.views.native import Untouched
from kdcache.views.policies import SHARE, Option, Policy

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "contributing.md").read_text()
FILES = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE, re.DOTALL))
DIFFS = dict(re.findall(r"```diff\n--- \S+\n\+\+\+ (\S+)\n@@\n(.*?)```", PAGE, re.DOTALL))
TABLES = ("methods", "equal", "knowledge_loss", "views", "policies", "sources_all", "codecs", "models", "measures")
ADDED = "distance or turned or faded or npz or bf16 or plain-8 or plain-W or brier"


def patched(text: str, diff: str) -> str:
    """A file with every hunk of a diff, each of which fits one place."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


@pytest.mark.parametrize("file", DIFFS)
def test_a_diff_fits_the_tree(file):
    assert patched((ROOT / file).read_text(), DIFFS[file]) != (ROOT / file).read_text()


@pytest.mark.slow
def test_the_tests_that_run_over_the_tables_take_all_of_it(tmp_path):
    """With the page's files and diffs in a copy of the tree."""
    for name in ("kdcache", "tests", "pipelines"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, diff in DIFFS.items():
        (tmp_path / file).write_text(patched((tmp_path / file).read_text(), diff))
    for file, text in FILES.items():
        with open(tmp_path / file, "a") as out:  # one of them is there already
            out.write(text)
    tests = [f"tests/test_{name}.py" for name in (*TABLES, "recipe_tiny")]
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-k", ADDED, *tests]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


def shown(name: str):
    """The class or function of this name, as the page shows it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = next(block for block in blocks if f"class {name}(" in block or f"def {name}(" in block)
    space = {"__name__": "kdcache.example"}
    exec(code, space)
    return space[name]


def test_a_new_method_is_listed_advised_and_taught(monkeypatch, in_tmp):
    monkeypatch.setitem(METHODS, "distance", shown("AbsoluteDistance"))
    good("pseudo-teacher --data synthetic:64,4,16 --views 1 -o logits.h5")
    refused("train-student --cache logits.h5 --method distence", 2, "did you mean distance?")
    found = good("train-student --cache logits.h5 --student tiny-2 --method distance --epochs 1 --json").json()
    assert found["top1"] >= 0


def test_a_new_measure_is_that_of_scikit_learn(monkeypatch):
    monkeypatch.setitem(MEASURES, "brier", Measure("Brier", "an example", "nats", shown("brier"), SURE, False))
    logits, labels = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    found = every(Outcome(logits, labels))
    expected = brier_score_loss(labels, logits.double().softmax(1), scale_by_half=False)
    assert found["brier"] == pytest.approx(expected)
    assert "brier" not in every(Outcome(logits, torch.full((50,), -1)))


@pytest.fixture
def turned(monkeypatch):
    monkeypatch.setitem(VIEWS, "turned", (shown("Turned"), {}))
    return open_view("turned", (8, 8))


@pytest.mark.parametrize("mixing", ["", "+cutmix"])
def test_a_new_view_comes_back_from_its_header(turned, mixing):
    view = open_view(f"turned{mixing}", (8, 8), 10)
    assert from_json("cache.h5", json.loads(json.dumps(view.to_json()))) == view
    assert view.evaluation() == Untouched((8, 8))


def test_a_new_view_renders(turned):
    images, seeds = made_images(40, 8, 8), made_seeds(40)
    rendered = turned.render(images, seeds)
    turns = {
        next(n for n in (0, 2) if torch.equal(new, old.rot90(n, (1, 2))))
        for old, new in zip(images, rendered, strict=True)
    }
    assert turns == {0, 2}


def test_a_new_view_is_listed_advised_and_dumped(turned, in_tmp):
    assert "turned by 180 degrees" in good("list views").out
    refused("plan --data synthetic:64,4,16 --augment turnd --teacher tiny-3", 2, "did you mean turned?")
    refused("plan --data synthetic:64,4,16 --augment turned:3 --teacher tiny-3", 2, "turned, which takes no argument")
    good(f"{TEACHER} --augment turned")
    assert good(f"{DUMP} --augment turned -o a.h5 --json").json()["view"]["view"] == "turned"
    assert good("verify a.h5 --json").json()["ok"]


def test_a_new_policy_replays(monkeypatch):
    policy = Policy("with less colour", shown("faded"), {"least": Option(0.5, SHARE)}, ("pillow",))
    monkeypatch.setitem(POLICIES, "faded", policy)
    view, images, seeds = open_view("none+faded:least=0", (8, 8)), made_images(8, 8, 8), made_seeds(8)
    assert torch.equal(view.render(images, seeds), view.render(images, seeds))
    assert from_json("cache.h5", json.loads(json.dumps(view.to_json()))) == view
    varied = view.render(images[:1].expand(8, -1, -1, -1), seeds)
    assert len({image.numpy().tobytes() for image in varied}) == 8


@pytest.fixture
def bf16(monkeypatch):
    monkeypatch.setitem(codecs.CODECS, "bf16", shown("BF16"))


def test_a_new_codec_keeps_what_it_says(bf16):
    values = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 1000
    codec = codecs.named("bf16", values)
    decoded = codec.decode(codec.encode(values))
    assert ((decoded.double() - values.double()).abs() <= codec.bound(values)).all()
    assert codecs.from_json("cache.h5", json.loads(json.dumps(codec.to_json()))) == codec


def test_a_new_codec_is_listed_advised_and_stored(bf16, in_tmp):
    assert "Brain floats" in good("list codecs").out
    good(TEACHER)
    refused(f"{DUMP} --codec bf61 -o a.h5", 2, "did you mean bf16?")
    refused(f"{DUMP} --codec bf16:3 -o a.h5", 2, "'bf16:3'")
    good(f"{DUMP} --codec bf16 -o a.h5")
    assert "logits     bf16" in good("inspect a.h5").out


def test_a_new_source_is_listed_advised_and_opened(monkeypatch, in_tmp):
    monkeypatch.setitem(
        sources.SOURCES, "npz", sources.Kind(shown("arrays"), "npz:ROOT with train.npz and eval.npz", "ROOT")
    )
    images = made_images(60, 8, 8).numpy()
    for split, rows in (("train", 40), ("eval", 20)):
        np.savez(f"{split}.npz", images=images[:rows], labels=np.arange(rows) % 2, classes=np.array(["a", "b"]))
    train = sources.open_source("npz:.", fraction=0.5)
    assert (train.spec, train.fraction, len(train), train.classes) == ("npz:.", 0.5, 20, ["a", "b"])
    assert "npz:ROOT" in good("list sources").out
    refused("train-teacher --model tiny-3 --data npz", 2, "expected npz:ROOT")
    refused("train-teacher --model tiny-3 --data np:.", 2, "did you mean npz?")
    refused("train-teacher --model tiny-3 --data npz:nowhere", 1, "no such file")
    good("train-teacher --model tiny-3 --data npz:. --epochs 1 --batch 16 --device cpu")


@pytest.fixture
def plain(monkeypatch):
    """The body in a module of its own, and the entry of the diff in the table."""
    module = types.ModuleType("kdcache.models.plain")
    module.PlainNet = shown("PlainNet")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    line = re.search(r"^\+ +(Family.*),$", PAGE, re.MULTILINE)[1]
    MODELS.append(eval(line, vars(table)))
    yield
    MODELS.pop()


def test_a_new_model_is_listed_advised_and_taught(plain, in_tmp):
    assert {"plain-8"} <= good("list models --json").json()["models"].keys()
    assert "plain-W" in good("list").out
    refused(f"{TEACHER.replace('tiny-3', 'plane-8')}", 2, "did you mean plain-8?")
    refused(f"{TEACHER.replace('tiny-3', 'plain-0')}", 2, "plain-W with W = 1, 2, ...")
    good(TEACHER.replace("tiny-3", "plain-8"))
    good(f"{DUMP.replace('tiny-3', 'plain-8')} --method st+ab+co -o a.h5")
    student = "train-student --cache a.h5 --student plain-24 --epochs 2 --batch 32 --device cpu"
    good(f"{student} --method st+ab")
