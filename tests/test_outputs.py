"""What is written has the name of its kind, and never takes the place of another file."""

import shutil
from pathlib import Path

import pytest
from cli_cases import DATA, DUMP, refused

import kdcache
from kdcache.errors import UsageError

pytestmark = pytest.mark.usefixtures("home")
PICTURES = ["show a.h5 -o", "bench codecs --plot"]


@pytest.mark.parametrize("command", PICTURES)
def test_a_picture_is_never_written_over_another_file(command, tmp_path):
    cache, plain = Path(shutil.copy("a.h5", tmp_path / "a.h5")), Path(shutil.copy("a.h5", tmp_path / "plain"))
    before = cache.read_bytes()
    refused(f"{command} {cache}", 2, "expected the name of a PNG picture, found a.h5; call it a.png")
    refused(f"{command} {plain}", 2, "plain, which is none")
    assert cache.read_bytes() == plain.read_bytes() == before


@pytest.mark.parametrize("command", [f"{DUMP} -o", f"pseudo-teacher {DATA} -o", f"plan --teacher tiny-3 {DATA} -o"])
def test_a_cache_is_not_called_like_another_file(command, tmp_path):
    for name, better in (("logits.png", "logits.h5"), ("notes.txt", "notes.h5"), ("a.safetensors", "a.h5")):
        refused(
            f"{command} {tmp_path}/{name}", 2, f"--out: expected the name of a cache, found {name}; call it {better}"
        )
    (tmp_path / "mine").write_text("a list of mine")
    refused(f"{command} {tmp_path}/mine", 2, "mine, which is none")
    assert (tmp_path / "mine").read_text() == "a list of mine"


def test_weights_are_not_called_like_a_cache(cache_file, tmp_path):
    distiller = kdcache.Distiller("tiny-2", cache_file, device="cpu")
    distiller.fit(1, verbose=0)
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(UsageError, match=r"found a\.h5; call it a\.safetensors"):
        distiller.save(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "mine"
