"""Answers find their images by content: in data sets that were renamed, filtered, numbered anew, re-sharded, grown."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import source_cases
import torch
from cli_cases import good, refused
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import kdcache
from kdcache.api import CachedDataset, CachedStream
from kdcache.cache import open_cache
from kdcache.errors import DataChanged, SourceError, UsageError
from kdcache.jobs import Data, open_data
from kdcache.sources import open_source
from kdcache.sources.adopted import taken_apart

CLASSES = ("ape", "bee", "cat", "dog")
SIZE = 12


def png(key: int) -> bytes:
    pixels = np.random.default_rng(key).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    path = Path(f"{key}.tmp.png")
    Image.fromarray(pixels).save(path)
    return path.read_bytes(), path.unlink()


def put(name: str, key: int) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(png(key)[0])


def photos(root: str, renamed: bool = False) -> str:
    """Forty images of four classes for training, eight for evaluation; under other names, and so in another order."""
    for key in range(48):
        split, label = "train" if key < 40 else "test", CLASSES[key % 4]
        put(f"{root}/{split}/{label}/{(key * 29) % 97 if renamed else key:03}.png", key)
    return f"folder:{root}"


@pytest.fixture(scope="module")
def made(dump, tmp_path_factory):
    """A folder with photos and a cache of what a teacher said of them."""
    folder = tmp_path_factory.mktemp("content")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        opened = Data.open(photos("photos"), "resized-crop:8")
        dump(folder / "logits.h5", opened, opened.network("tiny-3", 1).eval())
    return folder


@pytest.fixture
def at(made, in_tmp):
    """The current folder has copies of both."""
    shutil.copytree(made, in_tmp, dirs_exist_ok=True)
    return in_tmp


def assert_right(data: CachedDataset, unknown=()) -> None:
    """Every image has the pixels, the label and the answers of that image, found by comparing the decoded originals."""
    whole = CachedDataset("logits.h5")
    originals = [image.numpy().tobytes() for image in whole.source.read(range(len(whole.source)))]
    rows = [originals.index(image.numpy().tobytes()) if row not in unknown else -1
            for row, image in enumerate(data.source.read(range(len(data.source))))]  # fmt: skip
    assert len(data) == len(rows) * data.views
    for view in range(data.views):
        mine, theirs = data.view(view), whole.view(view)
        for row, original in enumerate(rows):
            if original >= 0:
                assert torch.equal(mine[row][0], theirs[original][0])
                assert mine[row][1] == theirs[original][1]
                assert torch.equal(mine[row][2], theirs[original][2])
    held, gathered = (data.cache.hold(1, ["logits"], "cpu")(torch.arange(len(rows))),
                      data.cache.gather(np.arange(len(rows)) + len(rows), ["logits"]))  # fmt: skip
    assert torch.equal(held["logits"], gathered["logits"])


def test_renamed_images_keep_their_answers(at):
    data = CachedDataset("logits.h5", data=photos("again", renamed=True))
    assert data.source.names != CachedDataset("logits.h5").source.names
    assert_right(data)
    assert_right(pickle.loads(pickle.dumps(data)))


def test_evaluation_images_keep_theirs(at):
    photos("again", renamed=True)
    for folder, same in (("again", True), ("grown", False)):
        if folder == "grown":
            shutil.copytree("again", "grown")
            put("grown/test/ape/new.png", 900)
        data = CachedDataset("logits.h5", data=f"folder:{folder}")
        assert data.cache.has_eval("logits") == same
        if same:
            whole, mine = CachedDataset("logits.h5").evaluation(), data.evaluation()
            answers = {
                image.numpy().tobytes(): answer for image, _, answer in (whole[row] for row in range(len(whole)))
            }
            for row in range(len(mine)):
                assert torch.equal(mine[row][2], answers[mine[row][0].numpy().tobytes()])


@pytest.mark.parametrize("kind", ["wds", "pack", *(pytest.param(one, marks=pytest.mark.slow) for one in ("csv", "hf"))])
def test_images_of_another_kind_of_source(kind, dump, in_tmp):
    """The same files in a table, a data set, archives and a pack: too large to be held in memory."""
    if kind == "hf":
        pytest.importorskip("datasets")
    opened = Data.open(source_cases.folder(in_tmp / "first"), "resized-crop:8")
    dump(in_tmp / "logits.h5", opened, opened.network("tiny-3", 1).eval())
    (in_tmp / "other").mkdir()
    data = CachedDataset("logits.h5", data=source_cases.MADE[kind](in_tmp / "other"))
    assert_right(data)


def test_a_folder_with_fewer_classes_is_numbered_as_the_teacher_has_them(at):
    spec = photos("again")
    for split in ("train", "test"):
        shutil.rmtree(f"again/{split}/ape")
    assert open_source(spec).classes == [*CLASSES[1:]]
    data = CachedDataset("logits.h5", data=spec)
    assert data.classes == data.source.classes == [*CLASSES]
    assert set(data.source.labels) == {1, 2, 3}
    assert_right(data)


def test_an_unknown_class_is_refused(at):
    spec = photos("again")
    put("again/train/eel/new.png", 900)
    with pytest.raises(DataChanged, match="found class eel, which it does not know"):
        CachedDataset("logits.h5", data=spec, missing="plain")


def test_another_label_is_refused(at):
    spec = photos("again")
    Path("again/train/ape/004.png").rename("again/train/cat/004.png")
    with pytest.raises(DataChanged, match=r"class ape of train/cat/004.png, as the cache has it, found class cat"):
        CachedDataset("logits.h5", data=spec)


def test_an_image_that_is_there_twice_keeps_both_labels(dump, in_tmp):
    """Two classes have a file of the same bytes; renaming it changes which of them comes first."""
    spec = photos("photos")
    put("photos/train/cat/twice.png", 0)
    opened = Data.open(spec, "resized-crop:8")
    dump(in_tmp / "logits.h5", opened, opened.network("tiny-3", 1).eval())
    photos("again", renamed=True)
    put("again/train/cat/twice.png", 0)
    data = CachedDataset("logits.h5", data="folder:again")
    twice = np.flatnonzero(
        np.isin(data.source.labels, [0, 2]) & (data.cache.digests == open_cache("logits.h5").digests[0])
    )
    assert sorted(data.source.labels[twice].tolist()) == [0, 2]
    assert len(np.unique(data.cache.rows[twice])) == 2


def grown() -> str:
    photos("again", renamed=True)
    for key, label in ((900, "ape"), (901, "dog"), (902, "dog")):
        put(f"again/train/{label}/new{key}.png", key)
    return "folder:again"


def test_images_that_it_does_not_know_are_named(at):
    with pytest.raises(DataChanged) as refused:
        CachedDataset("logits.h5", data=grown())
    assert "found 3 of 43 that it did not: train/ape/new900.png, train/dog/new901.png" in str(refused.value)
    assert "`missing` skip leaves them out" in str(refused.value)


def test_they_can_be_left_out(at):
    data = CachedDataset("logits.h5", data=grown(), missing="skip")
    assert len(data.source) == 40
    assert not any("new" in name for name in data.source.names)
    assert_right(data)


def test_or_learnt_from_their_labels(at):
    data = CachedDataset("logits.h5", data=grown(), missing="plain")
    unknown = [row for row, name in enumerate(data.source.names) if "new" in name]
    assert_right(data, unknown)
    for row in range(43):
        _, label, answer, known = data.view(1)[row]
        assert known == (row not in unknown)
        assert known or (label >= 0 and not answer.any())
    images, labels, answers, known = next(iter(DataLoader(data.view(0), 43)))
    assert known.dtype == torch.bool
    assert int(known.sum()) == 40
    again = CachedDataset("logits.h5", data="folder:again", missing="plain", names=["logits"])
    assert again[unknown[0]][2].keys() == {"logits"}
    assert images.shape == (43, 3, 8, 8)
    assert len(labels) == len(answers) == 43


def test_an_unknown_image_is_shown_alike_wherever_it_lies(at):
    one = CachedDataset("logits.h5", data=grown(), missing="plain")
    shutil.copytree("again", "filtered")
    for split in ("train", "test"):
        shutil.rmtree(f"filtered/{split}/bee")
    two = CachedDataset("logits.h5", data="folder:filtered", missing="plain")
    rows = [data.source.names.index("train/dog/new901.png") for data in (one, two)]
    assert rows[0] != rows[1]
    shown = [
        torch.stack([data.view(view)[row][0] for view in range(3)]) for data, row in zip((one, two), rows, strict=True)
    ]
    assert torch.equal(*shown)
    assert not torch.equal(shown[0][0], shown[0][1])


def test_other_images_altogether_are_refused_whatever_is_asked(at):
    for key in range(8):
        put(f"other/{'train' if key < 4 else 'test'}/{CLASSES[key % 4]}/x.png", 500 + key)
    for missing in ("refuse", "plain", "skip"):
        with pytest.raises(DataChanged, match="found none among 4"):
            CachedDataset("logits.h5", data="folder:other", missing=missing)


class Items(Dataset):
    """Somebody's data set of what is in files, which may be damaged later."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


def files() -> list[tuple[Path, int]]:
    paths = np.random.default_rng(0).permutation(sorted(map(str, Path("photos/train").rglob("*.png"))))
    return [(Path(path), CLASSES.index(Path(path).parent.name)) for path in paths]


FORMS = {
    "bytes with labels": lambda: [(path.read_bytes(), label) for path, label in files()],
    "bytes alone": lambda: [path.read_bytes() for path, _ in files()],
    "paths": lambda: [path for path, _ in files()],
    "samples of archives": lambda: [
        {"__key__": "a", "__url__": str(path), "png": path.read_bytes(), "cls": str(label).encode()}
        for path, label in files()
    ],
    "samples with a description": lambda: [
        {"__key__": "a", "img.PNG": path.read_bytes(), "json": b"{}", "txt": b"a bird"} for path, _ in files()
    ],
    "rows with images": lambda: [
        {"image": {"bytes": path.read_bytes(), "path": None}, "label": label} for path, label in files()
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_data_set_of_ones_own(form, at):
    assert_right(CachedDataset("logits.h5", images=Items(FORMS[form]())))


@pytest.mark.slow
def test_those_of_libraries(at):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    data = CachedDataset("logits.h5", images=ImageFolder("photos/train", transform=ToTensor()))
    assert_right(data)
    timm = pytest.importorskip("timm.data")
    images = timm.ImageDataset("photos/train")
    data = CachedDataset("logits.h5", images=images)
    assert_right(data)
    row = data.source.images.samples.index(("photos/train/ape/008.png", 0))
    Path("photos/train/ape/008.png").unlink()
    with pytest.raises(SourceError, match=r"item 2: expected an image, found .*008.png"):
        data[row]
    with pytest.raises(SourceError, match=r"item 2: expected an image, found .*008.png"):
        CachedDataset("logits.h5", images=images)


def test_a_reader_that_puts_another_image_in_its_place_is_refused(at):
    items = FORMS["bytes with labels"]()
    data = CachedDataset("logits.h5", images=Items(items))
    items[7] = items[8]
    assert len(data[6]) == 3
    with pytest.raises(DataChanged, match="Items, item 7: expected the same image each time"):
        data[7]


def test_pixels_of_a_cache_without_files(cache, data):
    images = [data.train.read([row])[0] for row in (5, 900, 3)]
    for form in (lambda image: image, torch.Tensor.numpy, lambda image: image.permute(1, 2, 0).numpy(),
                 lambda image: Image.fromarray(image.permute(1, 2, 0).numpy())):  # fmt: skip
        found = CachedDataset(cache, images=[form(image) for image in images])
        assert torch.equal(found[1][2], CachedDataset(cache)[900][2])
        assert torch.equal(found[1][0], CachedDataset(cache)[900][0])
        assert found[1][1] == 900 % 10


def test_known_rows_are_compared(at):
    items, cache = FORMS["bytes with labels"](), open_cache("logits.h5")
    rows = CachedDataset("logits.h5", images=items).cache.rows
    assert_right(CachedDataset("logits.h5", images=items, rows=rows))
    some = rows.copy()
    some[::5] = -1
    data = CachedDataset("logits.h5", images=items, rows=some, missing="plain")
    assert [known for *_, known in (data[row] for row in range(40))] == (some >= 0).tolist()
    assert data[0][1] == items[0][1]
    with pytest.raises(DataChanged, match="the row that was given"):
        CachedDataset("logits.h5", images=items, rows=np.roll(rows, 1))
    for wrong in (rows[1:], rows + 1, rows / 2, [rows]):
        with pytest.raises(UsageError, match="a row from 0 to 39 for each of 40 images"):
            CachedDataset("logits.h5", images=items, rows=wrong)
    assert len(cache) == 40


def streamed(stream, **options) -> list[tuple]:
    """What a loader of two workers gives, item by item."""
    batches = DataLoader(stream, 8, num_workers=2, **options)
    return [item for batch in batches for item in zip(*batch, strict=True)]


def test_a_stream_of_anything(at):
    """Each image once in an epoch, with what the data set has for its row and view; workers share the items."""
    whole, items = CachedDataset("logits.h5"), FORMS["rows with images"]()
    originals = [image.numpy().tobytes() for image in whole.source.read(range(40))]
    stream, seen = CachedStream("logits.h5", images=Once(items)), []
    for epoch in range(2):
        stream.set_epoch(epoch)
        views = whole.cache.view_at(np.arange(40), epoch)
        expected = {whole.view(int(view))[row][0].numpy().tobytes(): row for row, view in enumerate(views)}
        found = streamed(stream)
        rows = [expected[image.numpy().tobytes()] for image, *_ in found]
        assert sorted(rows) == list(range(40))
        for row, (_, label, answer) in zip(rows, found, strict=True):
            assert label == whole.source.labels[row]
            assert torch.equal(answer, whole.view(int(views[row]))[row][2])
        seen.append([originals[row] for row in rows])
    assert seen[0] == seen[1]


class Once:
    """What can be gone through, and has neither a length nor items."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def test_a_stream_with_images_that_it_does_not_know(at):
    items = [*FORMS["bytes with labels"]()[:6], (png(900)[0], 3)]
    with pytest.raises(DataChanged, match="found item 6, which it did not"):
        list(CachedStream("logits.h5", images=Once(items)))
    assert len(list(CachedStream("logits.h5", images=Once(items), missing="skip"))) == 6
    found = list(CachedStream("logits.h5", images=Once(items), missing="plain", names=["logits"]))
    assert [known for *_, known in found] == [True] * 6 + [False]
    image, label, answer, _ = found[6]
    assert (label, answer["logits"].any().item(), image.shape) == (3, False, (3, 8, 8))
    stream = CachedStream("logits.h5", images=Once([(items[0][0], (items[0][1] + 1) % 4)]))
    with pytest.raises(DataChanged, match="as the cache has it"):
        next(iter(stream))
    with pytest.raises(UsageError, match=r"take a kdcache\.CachedStream"):
        CachedDataset("logits.h5", images=Once(items))


@pytest.mark.parametrize("name", ["webdataset", pytest.param("datasets", marks=pytest.mark.slow)])
def test_streams_of_libraries_divide_themselves(name, at):
    pytest.importorskip(name)
    items = FORMS["samples of archives"]()
    if name == "webdataset":
        import webdataset

        with webdataset.ShardWriter("%d.tar", maxcount=10, verbose=0) as archive:
            for number, item in enumerate(items):
                archive.write({"__key__": f"{number:03}", "png": item["png"], "cls": item["cls"]})
        images = webdataset.WebDataset("{0..3}.tar", shardshuffle=False)
    else:
        import datasets

        rows = FORMS["rows with images"]()
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        whole = datasets.Dataset.from_dict({key: [row[key] for row in rows] for key in rows[0]}, features)
        images = whole.to_iterable_dataset(num_shards=4)
    found = streamed(CachedStream("logits.h5", images=images))
    whole = CachedDataset("logits.h5")
    views = whole.cache.view_at(np.arange(40), 0)
    expected = {whole.view(int(view))[row][0].numpy().tobytes() for row, view in enumerate(views)}
    assert {image.numpy().tobytes() for image, *_ in found} == expected
    assert len(found) == 40


@pytest.mark.parametrize("wrong", [3, torch.zeros(3, 8, 8), {"a": 1}, (b"", b"", b""), (b"x", "ape"), (b"x", 1.5)])
def test_what_is_no_image_is_refused(wrong, at):
    with pytest.raises(UsageError, match="item 0: expected"):
        CachedDataset("logits.h5", images=[wrong])


def test_what_cannot_be_bound_is_refused(at, dump, tmp_path):
    opened = Data.open("folder:photos", "resized-crop:8+mixup")
    dump(tmp_path / "mixed.h5", opened, opened.network("tiny-3", 1).eval())
    photos("again", renamed=True)
    with pytest.raises(UsageError, match="a view of single images"):
        CachedDataset("mixed.h5", data="folder:again")
    good("pack --data folder:photos -o small.kdp --short 8")
    with pytest.raises(UsageError, match="images in their own size"):
        CachedDataset("logits.h5", data="pack:small.kdp")
    with pytest.raises(UsageError, match="`fraction`"):
        open_data("logits.h5", "folder:again", fraction=0.5, missing="refuse")
    with pytest.raises(DataChanged):
        open_data("logits.h5", "folder:again")
    for options in ({"missing": "none"}, {"data": "digits", "images": []}, {"rows": [0]}):
        with pytest.raises(UsageError):
            CachedDataset("logits.h5", **options)


def test_a_loop_of_ones_own_masks_what_has_no_answer(at):
    data = CachedDataset("logits.h5", data=grown(), missing="plain")
    numbered = data.numbered()
    numbered.set_epoch(1)
    _, targets = next(iter(DataLoader(numbered, 43)))
    logits = torch.randn(43, 4, generator=torch.Generator().manual_seed(0))
    found = kdcache.KnowledgeLoss(numbered, "st").terms(logits, targets)
    known = torch.from_numpy(data.cache.known)
    each = torch.nn.functional.cross_entropy(logits, targets[:, 0], reduction="none")
    assert torch.allclose(found["ce"], (each * torch.where(known, 0.1, 1.0)).mean())
    answers = torch.stack([data.view(1)[row][2] for row in range(43)])
    apart = (answers / 4).softmax(1) * ((answers / 4).log_softmax(1) - (logits / 4).log_softmax(1))
    assert torch.allclose(found["st"], 0.9 * 16 * apart.sum(1)[known].sum() / 43)


STUDENT = "train-student --cache logits.h5 --student tiny-2 --epochs 2 --batch 16 --device cpu --workers 0"


def test_the_command_trains_on_them(at):
    photos("same", renamed=True)
    said = good(f"{STUDENT} --data folder:same --json")
    assert "images: 40 of 40 rows of logits.h5 found by content" in said.err
    assert said.json()["teacher_top1"] >= 0
    grown()
    refused(f"{STUDENT} --data folder:again", 1, "3 of 43", "--missing skip")
    said = good(f"{STUDENT} --data folder:again --missing plain --accumulate 2")
    assert "3 images that it does not know: learnt from labels alone" in said.err
    good(f"{STUDENT} --data folder:again --missing skip")
    refused(f"{STUDENT} --data folder:again --missing plain --mix labels", 2, "answers to all images")
    refused(f"{STUDENT} --missing plain", 2, "--missing", "--data")


def test_a_label_beside_a_path_or_bytes_counts(at):
    found = taken_apart("item 0", {"bytes": b"\x89PNG", "label": 3})
    assert (found.image, found.label) == (b"\x89PNG", 3)
