"""Logits from other programs: kinds of files, orders of rows, views; and the list of rows to make them by."""

import numpy as np
import pytest
import torch
from cli_cases import good, refused
from PIL import Image

from kdcache.cache import open_cache
from kdcache.errors import UsageError
from kdcache.jobs import Data, import_logits
from kdcache.seeds import sample_seeds

ROWS, CLASSES = 40, 4
DATA = f"synthetic:{ROWS},{CLASSES},8"
LABELS = np.arange(ROWS) % CLASSES
LOGITS = np.random.default_rng(0).normal(size=(3, ROWS, CLASSES)).astype(np.float32)
LOGITS += 9 * np.eye(CLASSES, dtype=np.float32)[LABELS]


def bring(file, path, data=None, **options):
    opened = data or Data.open(DATA, options.pop("augment", None))
    return open_cache(import_logits(str(file), opened, options.pop("order", None), path, "f32", **options)[0])


def read(cache, view=0):
    return cache.read(view, range(len(cache)))["logits"].numpy()


SAVED = {
    "one.pt": lambda path, one: torch.save(torch.from_numpy(one), path),
    "several.pth": lambda path, one: torch.save({"logits": torch.from_numpy(one), "epoch": 3}, path),
    "f16.pt": lambda path, one: torch.save(torch.from_numpy(one).half(), path),
    "old.pt": lambda path, one: torch.save(torch.from_numpy(one), path, _use_new_zipfile_serialization=False),
    "plain.csv": lambda path, one: np.savetxt(path, one, delimiter=","),
    "blanks.csv": lambda path, one: np.savetxt(path, one),
    "named.csv": lambda path, one: np.savetxt(path, one, delimiter=";", header="a;b;c;d", comments=""),
}


@pytest.mark.parametrize("name", SAVED)
def test_torch_and_csv(name, tmp_path):
    SAVED[name](tmp_path / name, LOGITS[0])
    tolerance = 0.01 if name == "f16.pt" else 0
    np.testing.assert_allclose(read(bring(tmp_path / name, tmp_path / "x.h5")), LOGITS[0], atol=tolerance)


class Calls:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", [Calls(), [1, 2], {"a": 1}])
def test_what_is_no_tensor(content, tmp_path, capsys):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UsageError):
        bring(tmp_path / "a.pt", tmp_path / "x.h5")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["", "a,b\n", "1,2\n3\n", "a\nb\nc"])
def test_what_is_no_table(text, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UsageError):
        bring(tmp_path / "a.csv", tmp_path / "x.h5")


# Views


def test_views_that_are_stated(tmp_path):
    np.save(tmp_path / "a.npy", LOGITS)
    opened = Data.open(DATA, "crop-flip")
    cache = bring(tmp_path / "a.npy", tmp_path / "x.h5", opened, view=opened.view, seed=7)
    assert cache.views == 3
    assert cache.meta["view"]["view"] == "crop-flip"
    for view in range(3):
        assert np.array_equal(read(cache, view), LOGITS[view])
        assert np.array_equal(cache.seeds(view, [5]), sample_seeds(7, np.array([view]), np.array([5])))


@pytest.mark.parametrize(("options", "lacking"), [
    ("", "no --augment and --seed"), ("--augment crop", "no --seed"), ("--seed 0", "no --augment"),
])  # fmt: skip
def test_views_that_are_not_stated(options, lacking, tmp_path):
    np.save(tmp_path / "a.npy", LOGITS)
    refused(f"import-logits {tmp_path}/a.npy --data {DATA} {options} -o {tmp_path}/x.h5", 2, lacking)
    good(f"import-logits {tmp_path}/a.npy --data {DATA} --augment crop --seed 0 -o {tmp_path}/x.h5")
    refused(f"train-student --cache {tmp_path}/x.h5 --method at", 1, "only dump-logits, of a network, can store it")
    assert "imported logits" in good(f"inspect {tmp_path}/x.h5").out


# Orders


@pytest.fixture(params=[8, 80], ids=["in memory", "files"])
def folder(request, tmp_path):
    """Twelve images of two classes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 1)):
        for name in ("crow", "Möwe"):
            place = tmp_path / "birds" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (request.param, request.param, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i} b.png")
    return Data.open(f"folder:{tmp_path}/birds", None)


@pytest.mark.parametrize("cut", ["", "train/"])
def test_order_by_file_name(folder, tmp_path, cut):
    places = np.random.default_rng(1).permutation(12)
    logits = np.random.default_rng(2).normal(size=(12, 2)).astype(np.float32)
    (tmp_path / "files.txt").write_text("\n".join(folder.train.names[row].removeprefix(cut) for row in places))
    np.save(tmp_path / "a.npy", logits[places])
    order = {"order": str(tmp_path / "files.txt"), "anyway": True}
    assert np.array_equal(read(bring(tmp_path / "a.npy", tmp_path / "x.h5", folder, **order)), logits)


@pytest.mark.parametrize(("change", "words"), [
    (lambda lines: [*lines[:-1], "train/crow/9.png"], "'train/crow/9.png'; `kdcache list rows"),
    (lambda lines: lines[:-1], "1 missing, such as train/crow/5 b.png"),
    (lambda lines: [*lines, lines[0]], "every row from 0 to 11 once"),
])  # fmt: skip
def test_names_that_are_no_order(folder, tmp_path, change, words):
    (tmp_path / "files.txt").write_text("\n".join(change(folder.train.names)))
    np.save(tmp_path / "a.npy", np.zeros((12, 2), np.float32))
    with pytest.raises(UsageError) as error:
        bring(tmp_path / "a.npy", tmp_path / "x.h5", folder, order=str(tmp_path / "files.txt"))
    assert words in str(error.value)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_list_of_rows(folder, fraction):
    source = Data.open(folder.train.spec, None, fraction).train
    lines = good(f"list rows --data '{source.spec}' --fraction {fraction}").out.splitlines()
    expected = [f"{row}\t{label}\t{source.classes[label]}" for row, label in enumerate(source.labels)]
    assert [line.rpartition("\t")[0] for line in lines] == expected
    assert [line.rpartition("\t")[2] for line in lines] == list(source.names)
    assert good(f"list rows --data '{source.spec}' --json").json()["rows"][0]["file"] == folder.train.names[0]


def test_rows_of_what_are_no_files():
    assert good(f"list rows --data {DATA}").out.splitlines()[5] == "5\t1\tclass1\t"
