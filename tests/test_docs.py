"""What README, docs and docstrings show runs: commands and code, in the order of the text."""

import contextlib
import doctest
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import source_cases
import torch
from cli_cases import good
from PIL import Image
from torch.utils.data import DataLoader

import kdcache
from kdcache.cli import main
from kdcache.errors import KdcacheError
from kdcache.jobs.catalogue import KEPT, USUAL, methods_for, methods_table, tables
from kdcache.methods import METHODS
from kdcache.types import Batch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(sh|python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"^for (\w+) in ([^;]+); do ([^;]+); done(?: > \S+)?$", re.MULTILINE)
SKIPPED = {"make demo", "make test"}  # the lines of shell that do not run here; every other one is a command of ours
PART = "--fraction 0.1"
SHORTER = {  # the one rule: a command of the text has these options added, so that it takes seconds
    "train-teacher": f"--epochs 1 {PART}",
    "dump-logits": f"--views 2 {PART}",
    "train-student": "--epochs 1",
    "run": "--seeds 1",
}
FEWER = {
    "epochs=200": "epochs=1",
    "epochs=20)": "epochs=1)",
    "epochs = 30": "epochs = 1",
    "views = 30": "views = 2",
    '"resnet20", teacher=': '"tiny-2", teacher=',
}  # and code reads so
LONG = {"own-network.md", "recipes.md", "views.md"}  # whole recipes, and what takes timm: run by make test-all
NAMED = re.compile(r"# (\w+\.\w+)$", re.MULTILINE)  # the first line of what a page shows as a file


def blocks(page: Path) -> list[tuple[str, str]]:
    return FENCED.findall(page.read_text())


def shell(text: str) -> list[list[str]]:
    """The words of every line, without its comment; a loop line by line."""
    text = LOOP.sub(lambda loop: "\n".join(loop[3].replace(f"${loop[1]}", one) for one in loop[2].split()), text)
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def code(text: str) -> str:
    for long, short in FEWER.items():
        text = text.replace(long, short)
    return text


def birds(folder: Path) -> None:
    """The images of docs/own-network.md: three classes, which differ in colour."""
    generator = np.random.default_rng(0)
    for split, images in (("train", 20), ("val", 5)):
        for label, name in enumerate(("robin", "wren", "tit")):
            (folder / split / name).mkdir(parents=True)
            for number in range(images):
                pixels = generator.integers(0, 128, (70, 80, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / split / name / f"{number:04}.jpg")


def own_images(folder: Path, monkeypatch) -> None:
    """The images of docs/data.md, of every kind."""
    source_cases.unchecked(monkeypatch)
    monkeypatch.setenv("KDCACHE_DATA", "data")
    for name in ("lists", "shards", "data"):
        (folder / name).mkdir()
    birds(folder / "birds")
    for number, path in enumerate(sorted((folder / "birds").rglob("*.jpg"))[:40]):
        (folder / "photos").mkdir(exist_ok=True)
        (folder / "photos" / f"{number:02}.jpg").write_bytes(path.read_bytes())
    for name in ("sorted", "grown"):  # the same images under other names, and some more
        for path in sorted((folder / "birds").rglob("*.jpg")):
            other = folder / name / path.relative_to(folder / "birds").with_name(f"{name}{path.name}")
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(path.read_bytes())
    Image.effect_noise((80, 70), 60).convert("RGB").save(folder / "grown" / "train" / "robin" / "new.jpg")
    source_cases.csv(folder / "lists")
    source_cases.wds(folder / "shards")
    source_cases.hf(folder)
    source_cases.fashion(folder / "data")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in LONG)) for page in PAGES]
)
def test_a_page_runs_from_top_to_bottom(page, in_tmp, monkeypatch):
    if page.name == "own-network.md":
        birds(in_tmp / "birds")
        monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    if page.name == "data.md":
        own_images(in_tmp, monkeypatch)
    names: dict = {}
    for kind, text in blocks(page):
        if file := NAMED.match(text):  # a recipe, or a module
            Path(file[1]).write_text(code(text))
            continue
        if kind == "python":
            exec(compile(code(text), page.name, "exec"), names)
            continue
        for program, *words in shell(text):
            if shlex.join([program, *words]) not in SKIPPED:
                assert program == "kdcache"
                good(f"{shlex.join(words)} {SHORTER.get(words[0], '')}")


def test_what_is_skipped_is_shown():
    every = {
        shlex.join(words) for page in PAGES for kind, text in blocks(page) if kind == "sh" for words in shell(text)
    }
    assert every >= SKIPPED


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    """Commands and their options that stand in the text, between backticks."""
    for text in re.findall(r"`(?:kdcache )?([a-z-]+(?: [^`\n]*)?)`", page.read_text()):
        name, *arguments = text.split()
        if name in main.commands:
            known = {opt for p in main.commands[name].params for opt in (*p.opts, *p.secondary_opts)} | {"--help"}
            assert {word for word in arguments if word.startswith("--")} <= known, text


def examples() -> list:
    """The docstrings with examples, of every module that has some."""
    files = [path for path in (ROOT / "kdcache").rglob("*.py") if ">>> " in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in sorted(files)]
    found = [test for name in names for test in doctest.DocTestFinder().find(importlib.import_module(name))]
    return [pytest.param(test, id=test.name) for test in found if test.examples]


@pytest.fixture(scope="module")
def around(tmp_path_factory) -> Path:
    """A folder with what docstrings speak of: a cache of the digits in 10 views, and somebody's network."""
    folder = tmp_path_factory.mktemp("around")
    with contextlib.chdir(folder):
        good("pseudo-teacher -o logits.h5")
    (folder / "mypkg").mkdir()
    lines = ["from torch import nn", "def make(classes):", "    return nn.Linear(3, classes)"]
    (folder / "mypkg" / "nets.py").write_text("\n".join(lines))
    return folder


def given() -> dict:
    """What docstrings take as given."""
    noise = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(8)
    shapes = {"logits": (10,), "emb": (8,)} | {f"f{i}.post": (8, 4, 4) for i in range(4)}
    return {
        "torch": torch, "METHODS": METHODS, "DataLoader": DataLoader, "mean": (0.5,) * 3, "std": (0.2,) * 3,
        "student_logits": noise[0].requires_grad_(), "teacher_logits": noise[1],
        "student_shapes": shapes, "teacher_shapes": shapes,
        "images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        "network": kdcache.models.build("tiny-2", 10, mean=(0.5,) * 3, std=(0.2,) * 3, seed=0),
        "batch": Batch(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), rows, rows, rows * 0),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize("test", examples())
def test_an_example_runs(test, around, monkeypatch):
    monkeypatch.chdir(around)
    monkeypatch.syspath_prepend(str(around))
    names, shown = given() | test.globs, []
    monkeypatch.setattr(sys, "displayhook", lambda value: value is None or shown.append(repr(value)))
    for example in test.examples:
        shown.clear()
        compiled = compile(code(example.source), test.name, "single")
        if example.exc_msg:
            with pytest.raises(KdcacheError) as refused:
                exec(compiled, names)
            assert f"kdcache.errors.{refused.typename}: {refused.value}" == example.exc_msg.strip()
            continue
        exec(compiled, names)
        if example.want:
            assert "\n".join(shown) == example.want.strip(), example.source


def test_what_is_kept_of_methods_is_what_is_found():
    """`keep`, in the same file, writes it anew."""
    assert json.loads(KEPT.read_text()) == json.loads(json.dumps(methods_for(*USUAL)))


def test_the_table_of_methods_is_made_from_them():
    """`methods_table` says how to make it anew."""
    table = methods_table(tables(["methods"])["methods"])
    assert table in (ROOT / "docs" / "methods.md").read_text()
