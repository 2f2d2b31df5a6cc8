"""No file picks code to import: MODULE:FACTORY is what the user typed, and nothing else."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from cli_cases import DATA, STUDENT, WEIGHTS, good, kdcache, refused
from hostile_cases import forged
from safetensors.torch import load_file, save_file

EVIL = """
from pathlib import Path
Path("ran").touch()
from kdcache.models.tiny import Tiny
def make(classes): return Tiny(3, classes)
def view(): return lambda image: image
"""
RECIPE = """
data = "synthetic:64,4,16"
seeds = 1
settings = { epochs = 1, batch = 16 }
teacher = { model = "tiny-3" }
dump = { views = 1 }
student = [{ model = "tiny-2" }]
"""
NAMED = {
    "teacher": ('teacher = { model = "tiny-3" }', 'teacher = { model = "evil:make" }', "--code=evil:make`"),
    "student": ('{ model = "tiny-2" }', '{ model = "evil:make" }', "--code=evil:make`"),
    "view": ("seeds = 1", 'seeds = 1\naugment = "torchvision:evil:view+mixup:0.2"', "--code=evil:view`"),
}


@pytest.fixture
def evil(home, tmp_path, monkeypatch) -> Path:
    """A folder with a module that leaves a mark when it is imported, and with files of others that name it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    Path("evil.py").write_text(EVIL)
    forged(home / "a.h5", tmp_path / "network.h5", meta=lambda meta: with_teacher(meta, "evil:make"))
    forged(home / "a.h5", tmp_path / "view.h5", meta=with_view)
    shutil.copytree((home / WEIGHTS).parent, "run")
    arch = {"arch": {"model": "evil:make", "classes": 4, "options": {}}, "facts": {}}
    save_file(load_file("run/last.safetensors"), "evil.safetensors", {"kdcache": json.dumps(arch)})
    described = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps(described | {"model": "evil:make", "view": VIEW}))
    return tmp_path


VIEW = {"view": "torchvision", "size": [16, 16], "pipeline": ["x"], "source_size": [16, 16], "factory": "evil:view"}


def with_teacher(meta: dict, model: str) -> dict:
    meta["teacher"]["model"] = model
    return meta


def with_view(meta: dict) -> dict:
    return meta | {"view": VIEW}


def ran() -> bool:
    return Path("ran").exists()


COMMANDS = {
    f"{STUDENT} --cache network.h5 --live": "expected teacher evil:make named beside it",
    f"{STUDENT} --cache view.h5": "expected --augment torchvision:evil:view",
    "verify view.h5": "expected --augment torchvision:evil:view",
    "show view.h5": "expected --augment torchvision:evil:view",
    f"verify network.h5 --teacher tiny-3 --weights evil.safetensors {DATA}": "weights of evil:make",
    "evaluate evil.safetensors": "name evil:make as the model if you trust that code",
    "evaluate run/last.safetensors": "expected --augment torchvision:evil:view",
    f"dump-logits --teacher tiny-3 --weights evil.safetensors {DATA}": "weights of evil:make",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_file_picks_code(command, evil):
    said = kdcache(command)
    assert (said.code, ran()) == (2, False), said
    assert COMMANDS[command] in said.err
    assert "if you trust that code" in said.err


@pytest.mark.parametrize("command", ["inspect network.h5", "inspect view.h5", "verify network.h5", "show network.h5"])
def test_looking_at_a_file_imports_nothing(command, evil):
    good(command)
    assert not ran()


def test_a_header_whose_model_is_no_text(evil):
    forged(evil / "network.h5", evil / "number.h5", meta=lambda meta: with_teacher(meta, 5))
    refused(f"{STUDENT} --cache number.h5 --live", 1, "header.teacher.model")


def test_a_live_teacher_that_is_named_is_imported(evil):
    refused(f"{STUDENT} --cache network.h5 --live --teacher evil:make", 1, "train-teacher --model evil:make")
    assert ran()


@pytest.mark.parametrize(("old", "new", "typed"), NAMED.values(), ids=NAMED)
def test_a_recipe_of_others(old, new, typed, evil):
    assert old in RECIPE
    Path("theirs.toml").write_text(RECIPE.replace(old, new))
    refused("run theirs.toml", 2, "theirs.toml: expected no code but yours", f"`kdcache run theirs.toml {typed}")
    refused("run theirs.toml --code other:make", 2, "which it would import")
    assert not ran()


def test_a_recipe_whose_code_is_named(evil):
    Path("mine.toml").write_text(RECIPE.replace(*NAMED["student"][:2]))
    good("run mine.toml --code evil:make")
    assert ran()
