"""Imports go strictly downward, heavy packages stay out of the way, and nothing is forbidden where it stands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "kdcache"
LAYERS = [
    {"types", "errors", "seeds", "user_code", "limits"},
    {"sources", "views", "models", "methods", "codecs", "runs", "pseudo"},
    {"cache", "batches", "teachers", "report"},
    {"proof", "train"},
    {"dump"},
    {"jobs", "recipe", "api"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
BESIDE = {  # rooms of one layer that may use each other, in this order
    "user_code": {"errors"},
    "limits": {"errors"},
    "batches": {"cache"},
    "teachers": {"batches", "cache"},
    "report": {"batches", "cache"},
    "recipe": {"jobs"},
    "api": {"jobs"},
}
FORBIDDEN = {
    "codecs": {"h5py"},
    "methods": {"h5py"},
    "models": {"h5py"},
    "train": {"h5py", "kdcache.cache"},
    "runs": {"torch", "h5py"},
    "pseudo": {"h5py", "torch"},
    "cache": {"torch.nn", "kdcache.models", "kdcache.methods"},
}
FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    here = room(path)
    if here == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "kdcache" or len(parts) == 1 or parts[1] in (here, "__version__"):
            continue
        if (ROOT / parts[1]).exists() or (ROOT / f"{parts[1]}.py").exists():
            below = level(parts[1]) < level(here) or parts[1] in BESIDE.get(here, ())
            assert below, f"{here} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_forbidden(path):
    here, found = room(path), imports(path)
    for name in found:
        assert not any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN.get(here, ())), name
        assert name.split(".")[0] not in ("pipelines", "tests")
        if here != "cli":
            assert name.split(".")[0] not in ("click", "tqdm")
    if here != "cli":
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]


def test_every_room_has_a_layer():
    for path in FILES:
        assert room(path) == "__init__" or level(room(path)) >= 0


def test_training_does_not_load_the_dump():
    code = "import sys, kdcache.api, kdcache.jobs.student; print('kdcache.dump' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_door_opens_without_heavy_packages():
    code = "import sys, kdcache.cli; print([m for m in ('torch', 'numpy', 'h5py', 'tqdm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("heavy", ["albumentations", "torchvision", "sklearn", "matplotlib"])
def test_the_core_does_without(heavy):
    every = "import kdcache.api, kdcache.recipe, kdcache.jobs as j; [getattr(j, name) for name in dir(j)]"
    code = f"import sys; {every}; print({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
