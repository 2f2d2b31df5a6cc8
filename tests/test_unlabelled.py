"""Images without labels, and folders without splits: dumped, and taught by methods that need no labels."""

from pathlib import Path

import numpy as np
import pytest
from cli_cases import good, kdcache
from reference_views import encoded, picture

from kdcache.cache import open_cache
from kdcache.errors import KdcacheWarning, SourceError, UsageError
from kdcache.jobs import Data, Student, taught_by, training_memory
from kdcache.sources import open_source
from kdcache.sources.listed import held_out

VIEW = "--augment resized-crop:16 --device cpu"
SHORT = "--epochs 1 --batch 16 --device cpu"
TEACHER = "--teacher tiny-2 --weights teacher/last.safetensors"
RULE = "one in 10 is held out, by a hash of its name"


def place(root: Path, *names: str) -> None:
    for row, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(picture(70, 70 + row % 4, key=row), "PNG"))


@pytest.fixture(scope="module")
def loose(tmp_path_factory) -> Path:
    """Forty images in no class, some of them in a folder, and a run of a teacher of three classes."""
    root = tmp_path_factory.mktemp("loose")
    place(root / "photos", *(f"{'more/' if row % 2 else ''}{row:02}.png" for row in range(40)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        good("train-teacher --model tiny-2 --data synthetic:48,3,16 --epochs 1 --batch 16 --device cpu --out teacher")
        good(f"dump-logits {TEACHER} --data folder:photos {VIEW} --views 2 -o a.h5")
    return root


@pytest.fixture
def here(loose, monkeypatch) -> Path:
    monkeypatch.chdir(loose)
    return loose


# folders


def both(root: Path) -> tuple:
    with pytest.warns(KdcacheWarning, match=RULE):
        return open_source(f"folder:{root}"), open_source(f"folder:{root}", "eval")


def test_images_without_classes_are_split_by_the_rule(loose):
    train, other = both(loose / "photos")
    assert (train.classes, other.classes) == ([], [])
    assert {*train.labels.tolist(), *other.labels.tolist()} == {-1}
    assert sorted(train.names + other.names) == sorted(f"{'more/' if row % 2 else ''}{row:02}.png" for row in range(40))
    assert held_out(other.names).all()


def test_rows_keep_their_side_when_some_are_added(tmp_path):
    place(tmp_path, *(f"{row:02}.png" for row in range(40)))
    train, other = both(tmp_path)
    place(tmp_path, *(f"new-{row:02}.png" for row in range(40)), "000.png")
    more, others = both(tmp_path)
    assert {*train.names} < {*more.names}
    assert {*other.names} < {*others.names}


def test_class_folders_without_train_and_test(tmp_path):
    place(tmp_path, *(f"{kind}/{row:02}.png" for kind in ("cat", "dog") for row in range(30)))
    train, other = both(tmp_path)
    assert train.classes == other.classes == ["cat", "dog"]
    for source in (train, other):
        named = [source.classes[label] for label in source.labels]
        assert named == [name.partition("/")[0] for name in source.names]
    assert len(train) + len(other) == 60


def test_train_and_test_without_classes(tmp_path):
    place(tmp_path, "train/1.png", "train/0.png", "train/x/2.png", "test/0.png")
    train, other = (open_source(f"folder:{tmp_path}", split) for split in ("train", "eval"))
    assert (train.names, other.names) == (["train/0.png", "train/1.png", "train/x/2.png"], ["test/0.png"])
    assert train.classes == other.classes == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["a/0.png", "b/0.png", "0.png"],
            "expected class folders, or images without classes, found 2 folders and images",
        ),
        (["0.png"], "expected images for the eval split, found none among 1"),
    ],
)
def test_a_folder_that_may_be_either_is_refused(tmp_path, names, words):
    place(tmp_path, *names)
    with pytest.raises(SourceError, match=words):
        open_source(f"folder:{tmp_path}", "eval")


def test_an_empty_class_beside_others(tmp_path):
    place(tmp_path, "a/0.png", "b/0.png")
    (tmp_path / "c").mkdir()
    with pytest.raises(SourceError, match=r"/c: expected JPEG, PNG or WebP files, found none"):
        open_source(f"folder:{tmp_path}")


# caches and trainings


def test_a_cache_has_the_classes_of_its_teacher(here):
    cache = open_cache("a.h5")
    assert (cache.classes, {*cache.labels.tolist()}) == (["0", "1", "2"], {-1})
    assert RULE in good(f"verify a.h5 {TEACHER}").err
    good("show a.h5 -o a.png")
    assert "classes     3: 0, 1, 2" in good("inspect a.h5").out


@pytest.mark.parametrize("method", ["st", "logits:ce=0", "tfkd/self"])
def test_a_student_learns_without_labels(here, tmp_path, method):
    said = good(f"train-student --cache a.h5 --student tiny-2 --method {method} {SHORT} --json --out {tmp_path}/run")
    found = said.json()
    assert "top1" not in found
    assert 0 <= found["agreement"] <= 1
    assert "labels: none in folder:photos" in said.err


def test_a_student_of_a_live_teacher_learns_without_labels(here, tmp_path):
    teacher = f"--live {TEACHER} --data folder:photos {VIEW}"
    good(f"train-student {teacher} --student tiny-2 --epochs 1 --batch 16 --out {tmp_path}/run")


@pytest.mark.parametrize("method", ["none", "dkd", "st+dkd", "ls", "tfkd"])
def test_a_method_that_needs_labels_is_refused_by_name(here, method):
    cache = open_cache("a.h5")
    with pytest.warns(KdcacheWarning, match=RULE):
        data = Data.of_cache(cache)
    with (
        pytest.raises(
            UsageError, match=rf"`method`: expected images with labels, found folder:photos without, for {method[:2]}"
        ),
        Student(data, "tiny-2", method, teacher=taught_by(cache)).ready(),
    ):
        pass


@pytest.mark.filterwarnings("ignore::kdcache.errors.KdcacheWarning")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train-teacher --model tiny-2", "expected images with labels"),
        ("train-student --student tiny-2 --method none", "expected images with classes"),
        ("pseudo-teacher -o p.h5", "expected images with labels"),
    ],
)
def test_what_learns_from_labels_is_refused(here, line, words):
    said = kdcache(f"{line} --data folder:photos")
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert "Traceback" not in said.err


def test_logits_that_one_has_need_no_labels(here, tmp_path):
    rows = len(open_cache("a.h5"))
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32))
    said = good(f"import-logits {tmp_path}/mine.npy --data folder:photos -o {tmp_path}/mine.h5")
    assert "nan" not in said.out + said.err
    assert open_cache(tmp_path / "mine.h5").classes == list("01234")


def test_the_memory_of_a_student_of_images_without_classes_is_reckoned(loose):
    with pytest.warns(KdcacheWarning, match=RULE):
        photos = Data.open(f"folder:{loose / 'photos'}", "resized-crop:16")
    assert not photos.train.classes
    assert training_memory(photos, "tiny-2", 1)["state_bytes"] > 0
