"""A cache, and a run, find their images wherever one opens them from, and wherever both went; bytes know no place."""

import shutil
import warnings
from pathlib import Path

import pytest
from cli_cases import good, kdcache, refused

import kdcache as package
from kdcache.cache.writer import Writer
from kdcache.errors import KdcacheWarning, SourceError
from kdcache.sources import located

DUMP = "dump-logits --teacher tiny-2 --views 1 --device cpu --data folder:data/pets --augment resized-crop:16"


@pytest.fixture(scope="module")
def made(pictures, tmp_path_factory) -> Path:
    """A project: images in data/pets, a run and a cache that were made with `folder:data/pets`, seen from there."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(pictures, project / "data" / "pets")
    (project / "caches").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        data = "--data folder:data/pets --augment resized-crop:16"
        good(f"train-teacher --model tiny-2 --epochs 1 --device cpu {data}")
        good(f"{DUMP} -o caches/pets.h5")
    return project


@pytest.fixture
def project(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


def read(path: Path) -> int:
    """How many items a cache has whose pixels are those that the teacher saw."""
    return len(package.CachedDataset(path))


@pytest.mark.parametrize("here", [".", "caches", "data", "data/pets", "runs"])
def test_a_cache_finds_its_images_from_any_folder(project, here, monkeypatch):
    monkeypatch.chdir(project / here)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if here != "." else "error", KdcacheWarning)
        assert read(project / "caches" / "pets.h5") == 60


def test_where_they_were_found_is_said(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = good("verify project/caches/pets.h5")
    assert f"folder:data/pets is not here; its images are read from {project}/data/pets" in said.err


def test_images_that_moved_next_to_the_cache(project, tmp_path, monkeypatch):
    shutil.move(project / "data" / "pets", project / "caches" / "pets")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(KdcacheWarning, match="caches/pets$"):
        assert read(project / "caches" / "pets.h5") == 60


def test_an_absolute_path_that_is_gone(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    good(DUMP.replace("folder:data", f"folder:{project}/data") + f" -o caches/a.h5 --weights {weights()}")
    moved = Path(shutil.move(project, tmp_path / "elsewhere"))
    monkeypatch.chdir(moved.parent)
    with pytest.warns(KdcacheWarning, match="elsewhere/data/pets$"):
        assert read(moved / "caches" / "a.h5") == 60


def weights() -> str:
    return str(next(Path("runs").glob("*/last.safetensors")))


@pytest.mark.parametrize("command", ["show", "verify", "train-student --student tiny-2 --epochs 1 --cache"])
def test_images_that_are_nowhere(project, tmp_path, monkeypatch, command):
    shutil.move(project / "data" / "pets", tmp_path / "moved")
    monkeypatch.chdir(project)
    said = kdcache(f"{command} caches/pets.h5")
    assert said.code == 1
    assert "caches/pets.h5: expected its images at folder:data/pets" in said.out + said.err
    assert "--data folder:NEW" in said.out + said.err
    good(f"{command} caches/pets.h5 --data folder:{tmp_path}/moved")
    with pytest.raises(SourceError, match=r"`data` folder:NEW"):
        package.CachedDataset("caches/pets.h5")


def test_other_images_under_that_name_are_not_taken(project, pictures, tmp_path, monkeypatch):
    other = tmp_path / "other" / "data" / "pets"
    shutil.copytree(pictures, other)
    (other / "train" / "cat" / "00.png").unlink()
    monkeypatch.chdir(tmp_path / "other")
    refused(f"show {project}/caches/pets.h5", 1, "rows 60", "rows 59", "--data")


def test_a_run_finds_them_and_keeps_its_size(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    here = good("evaluate runs/teacher-folder-data-pets-tiny-2 --json --device cpu").json()
    monkeypatch.chdir(tmp_path)
    run = "evaluate project/runs/teacher-folder-data-pets-tiny-2 --json --device cpu"
    there = good(run).json()
    moved = good(f"{run} --data folder:{shutil.move(project / 'data' / 'pets', tmp_path / 'moved')}").json()
    assert here["top1"] == there["top1"] == moved["top1"]
    assert here["nll"] == there["nll"] == moved["nll"]
    refused(run, 1, "--data folder:NEW")


def test_a_dump_goes_on_from_another_folder_under_another_name_of_its_images(project, monkeypatch):
    monkeypatch.chdir(project)
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "finish", stopped)
        assert kdcache(f"{DUMP} -o caches/again.h5").code != 0
    monkeypatch.chdir(project / "caches")
    there = f"{DUMP} -o again.h5 --runs ../runs --weights ../runs/teacher-folder-data-pets-tiny-2/last.safetensors"
    good(there.replace("folder:data/pets", f"folder:{project}/data/pets"))
    assert Path("again.h5").read_bytes() == Path("pets.h5").read_bytes()
    assert not Path("again.h5.part").exists()


def stopped(self):
    raise KeyboardInterrupt


def test_the_bytes_of_a_dump_know_no_place(project, monkeypatch):
    monkeypatch.chdir(project)
    again = shutil.copytree(project, project.parent / "again")
    monkeypatch.chdir(again)
    good(f"{DUMP} -o caches/again.h5")
    assert (again / "caches" / "again.h5").read_bytes() == (project / "caches" / "pets.h5").read_bytes()
    assert str(project).encode() not in (project / "caches" / "pets.h5").read_bytes()


@pytest.mark.parametrize(
    "spec", ["digits", "synthetic:4,2,8", "folder:nowhere", "folder:\0", f"folder:{'no-such/' * 10**6}"]
)
def test_what_names_no_place_that_exists(spec, in_tmp):
    assert located(spec, in_tmp / "a.h5") is None
