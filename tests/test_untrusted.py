"""Files from anywhere: bounded, and refused in one line."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from kdcache import limits
from kdcache.errors import SourceError, UsageError
from kdcache.runs import Run
from kdcache.sources.decode import decode, file_bytes
from kdcache.train import Settings
from kdcache.views import open_view
from kdcache.views.albumentations import MOST_VALUES, loaded

ATTACK = Path(__file__).parent / "attacks" / "untrusted.py"


def test_every_input_is_answered_in_a_line():
    done = subprocess.run([sys.executable, ATTACK, "--seconds", "60"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if not line.startswith("ok")]


# Images

PICTURE = io.BytesIO()
Image.effect_noise((40, 30), 50).convert("RGB").save(PICTURE, "JPEG")


def test_bounds_of_images_can_be_set(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(PICTURE.getvalue())
    data = file_bytes(tmp_path / "a.jpg")
    assert decode("a.jpg", data).shape == (3, 30, 40)
    monkeypatch.setenv("KDCACHE_MAX_PIXELS", "1199")
    with pytest.raises(
        SourceError, match=r"at most 1,199 pixels, found 40 x 30 .*; remove it, or set KDCACHE_MAX_PIXELS"
    ):
        decode("a.jpg", data)
    monkeypatch.setenv("KDCACHE_MAX_PIXELS", "1200")
    decode("a.jpg", data)
    monkeypatch.setenv("KDCACHE_MAX_IMAGE_BYTES", str(len(data) - 1))
    with pytest.raises(SourceError, match="more than the"):
        file_bytes(tmp_path / "a.jpg")


@pytest.mark.parametrize("text", ["", "0", "-1", "1e9", "many", "9" * 20])
def test_a_bound_that_is_none(text, monkeypatch):
    monkeypatch.setenv("KDCACHE_MAX_PIXELS", text)
    with pytest.raises(UsageError, match="KDCACHE_MAX_PIXELS: expected a whole number"):
        limits.limit("KDCACHE_MAX_PIXELS")


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    assert limits.read_bytes(tmp_path / "b", 3) == b"abc"
    with pytest.raises(IsADirectoryError):
        limits.read_bytes(tmp_path, 3)


# Pipelines


def saved(*steps: dict) -> str:
    steps = [{"p": 1.0} | step for step in steps]
    return json.dumps({"transform": {"__class_fullname__": "Compose", "p": 1.0, "transforms": steps}})


def test_a_few_aliases_are_read():
    shared = "transform: {__class_fullname__: Compose, a: &a [1, 2], b: *a, c: *a}"
    assert loaded("x", shared, ".yaml")[0]["transform"]["c"] == [1, 2]
    many = (
        "transform: {__class_fullname__: Compose, a: &a "
        + str(list(range(1000)))
        + f", b: [{'*a,' * (MOST_VALUES // 1000)}]}}"
    )
    with pytest.raises(UsageError, match="aliases"):
        loaded("x", many, ".yaml")


def test_the_largest_side(tmp_path):
    pytest.importorskip("albumentations")
    for side, fits in ((limits.MOST_SIDE, True), (limits.MOST_SIDE + 1, False)):
        step = {"__class_fullname__": "Resize", "height": 8, "width": side, "interpolation": 1}
        (tmp_path / "a.json").write_text(saved(step))
        if fits:
            assert open_view(f"albumentations:{tmp_path}/a.json", (16, 16)).size == (8, side)
            continue
        with pytest.raises(UsageError, match=f"width of at most {limits.MOST_SIDE}, found width {side}"):
            open_view(f"albumentations:{tmp_path}/a.json", (16, 16))


def test_a_view_that_grows_too_large(tmp_path, monkeypatch):
    """Code of one's own, whose parameters nobody can read."""
    monkeypatch.chdir(tmp_path)
    name = f"grow_{os.path.basename(tmp_path)}".replace("-", "_")
    lines = ["import torch", "def view(): return lambda image: torch.zeros(3, 8, 5000, dtype=torch.uint8)"]
    Path(f"{name}.py").write_text("\n".join(lines))
    with pytest.raises(UsageError, match="at most 4096 x 4096, found 8 x 5000"):
        open_view(f"torchvision:{name}:view", (16, 16))


# Numbers


@pytest.mark.parametrize("name", ["epochs", "batch", "lr", "warmup", "clip", "seed"])
def test_settings_of_400_digits(name):
    with pytest.raises(UsageError, match=f"`{name}`: expected"):
        Settings(**{name: 10**400})


# Runs

FACTS = {"kind": "student", "settings": {"epochs": 3}}


def run_with(folder: Path, epochs: int, records: int, *names: str) -> None:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"settings": {"epochs": epochs}}))
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n' * records)
    for name in names:
        (folder / f"{name}.safetensors").touch()


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("names", [(), ("last",), ("last", "best")])
def test_a_run_killed_before_its_first_state_leaves_nothing(names, resume, tmp_path):
    run_with(tmp_path / "a", 3, 1, *names)
    assert not Run(tmp_path / "a", FACTS, resume).begin()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"run.json", ".lock"}


@pytest.mark.parametrize(
    ("epochs", "records", "names"),
    [(3, 1, ["state"]), (3, 3, ["last"]), (1, 1, ["last"]), (3, 2, []), (3, 0, ["last"])],
)
def test_what_may_be_hours_of_work_is_kept(epochs, records, names, tmp_path):
    run_with(tmp_path / "a", epochs, records, *names)
    Run(tmp_path / "a", FACTS, restart=True).begin()
    assert (tmp_path / "a~1" / "metrics.jsonl").exists()
