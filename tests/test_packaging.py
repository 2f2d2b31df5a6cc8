"""What is installed without a checkout: the wheel holds what commands read."""

import ast
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import kdcache
from kdcache.jobs.shipped import recipes

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return zipfile.ZipFile(found)


def test_the_wheel_holds_the_package_its_data_and_the_recipes(wheel):
    held = set(wheel.namelist())
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "kdcache").rglob("*") if path.suffix in (".py", ".npz")}
    wanted = code | {f"kdcache/pipelines/{path.name}" for path in recipes().values()} | {"kdcache/py.typed"}
    assert wanted <= held
    assert not {name.partition("/")[0] for name in held} - {"kdcache", f"kdcache-{version()}.dist-info"}


def test_the_source_distribution_holds_what_the_tests_read(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (found,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    files = [path for name in ("docs", "tests") for path in (ROOT / name).rglob("*")]
    wanted = {str(path.relative_to(ROOT)) for path in files if path.suffix in (".py", ".md", ".html", ".png")}
    assert {*wanted, "mkdocs.yml", "README.md", "LICENSE", "CITATION.cff", "SECURITY.md", "Makefile"} <= held


def test_extras_all_are_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = [
        *project["dependencies"],
        *(one for several in project["optional-dependencies"].values() for one in several),
    ]
    names = {one.partition("[")[0].partition(">")[0].partition("<")[0].lower() for one in wanted} - {"kdcache"}
    assert names <= pinned


def test_type_checkers_are_told_of_every_name():
    tree = ast.parse(Path(kdcache.__file__).read_text())
    told = {name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names}
    lent = {*" ".join(kdcache._PLACES.values()).split()}
    assert told - {"TYPE_CHECKING", "on_demand"} == lent
    assert {*kdcache.__all__} == lent | {"__version__"}


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
