"""Imports go strictly downward, heavy packages stay out of the way, and nothing is forbidden where it stands."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent / "kdcache"
LAYERS = [
    {
        "types",
        "errors",
        "checks",
        "seeds",
        "user_code",
        "lazy_torch",
        "on_demand",
        "limits",
        "wording",
        "durable",
        "threads",
        "ranks",
        "ranges",
    },
    {"sources", "views", "models", "methods", "codecs", "measures", "runs", "pseudo"},
    {"cache", "batches", "teachers", "report"},
    {"proof", "train", "audit", "packing", "read"},
    {"dump"},
    {"jobs", "recipe", "api", "adapters"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
BESIDE = {  # rooms of one layer that may use each other, in this order
    "checks": {"errors"},
    "user_code": {"errors"},
    "limits": {"errors"},
    "durable": {"checks", "errors"},
    "on_demand": {"errors"},
    "ranges": {"errors", "on_demand"},
    "ranks": {"errors"},
    "batches": {"cache"},
    "teachers": {"batches", "cache"},
    "report": {"batches", "cache"},
    "packing": {"proof"},
    "recipe": {"jobs"},
    "api": {"jobs"},
    "adapters": {"api"},
}
FORBIDDEN = {
    "codecs": {"h5py"},
    "measures": {"h5py"},
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


def down(here: str, name: str) -> bool:
    """Whether a room may import something: what is not ours, itself, and what lies below or beside it."""
    parts = name.split(".")
    if parts[0] != "kdcache" or len(parts) == 1 or parts[1] in (here, "__version__"):
        return True
    if not ((ROOT / parts[1]).exists() or (ROOT / f"{parts[1]}.py").exists()):
        return True
    return level(parts[1]) < level(here) or parts[1] in BESIDE.get(here, ())


def test_imports_go_down():
    inner = [path for path in FILES if room(path) != "__init__"]
    assert not [f"{path} imports {name}" for path in inner for name in imports(path) if not down(room(path), name)]


def allowed(here: str, name: str) -> bool:
    first = name.split(".")[0]
    if first in ("pipelines", "tests") or (here != "cli" and first in ("click", "tqdm")):
        return False
    return not any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN.get(here, ()))


def test_nothing_forbidden():
    assert not [f"{path} imports {name}" for path in FILES for name in imports(path) if not allowed(room(path), name)]


def test_only_the_door_prints():
    calls = [
        (path, node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if room(path) != "cli" and isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert not [f"{path}:{node.lineno}" for path, node in calls if node.func.id == "print"]


def test_every_room_has_a_layer():
    for path in FILES:
        assert room(path) == "__init__" or level(room(path)) >= 0


def loaded(code: str, *packages: str) -> str:
    """Which of these packages a program has imported."""
    code = f"import sys; {code}; print('loaded', *[name for name in {packages!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()[-1]


HEAVY = ("albumentations", "torchvision", "timm", "datasets", "sklearn", "matplotlib")
HEAVY += ("transformers", "accelerate", "lightning", "keras")


def test_the_door_opens_without_heavy_packages():
    for code in ("import kdcache", "from kdcache.cli import main; main(['--help'], standalone_mode=False)"):
        assert loaded(code, "torch", "numpy", "h5py", "tqdm", *HEAVY) == "loaded"


def test_a_cache_is_read_without_torch():
    assert loaded("import kdcache.read", "torch", "h5py", "click", "tqdm", *HEAVY) == "loaded"


def test_training_does_not_load_the_dump_and_the_core_does_without():
    """One after the other in one process, of which torch is the most."""
    training = "import kdcache.api, kdcache.jobs.student; assert 'kdcache.dump' not in sys.modules"
    every = "import kdcache.recipe, kdcache.jobs as j; [getattr(j, name) for name in dir(j)]"
    assert loaded(f"{training}; {every}", *HEAVY) == "loaded"
