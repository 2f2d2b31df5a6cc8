"""Data sets of the library `datasets`: columns by type or by name, splits, and nothing that is executed."""

import importlib.util
import pickle
from pathlib import Path

import pytest
from cli_cases import refused
from reference_views import encoded, picture

from kdcache.errors import KdcacheWarning, SourceError, UsageError
from kdcache.sources import open_source
from kdcache.sources.hugging_face import path_of, split_in

datasets = pytest.importorskip("datasets")
IMAGES = [encoded(picture(70, 71, key=row)) for row in range(6)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Nothing is kept in the user's home, and nobody is asked on the network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def table(features=None, **columns):
    made = {"image": [{"bytes": data, "path": None} for data in IMAGES]} | columns
    return datasets.Dataset.from_dict(made, features and datasets.Features({"image": datasets.Image()} | features))


def parquet(root: Path, features=None, names=("train", "test"), **columns) -> str:
    root.mkdir(exist_ok=True)
    for part, name in enumerate(names):
        rows = range(part, 6, len(names))
        table(features, **columns).select(rows).to_parquet(root / f"{name}-00000-of-00001.parquet")
    return f"hf:{root}"


@pytest.mark.parametrize(
    ("features", "labels", "classes", "read"),
    [
        ({"y": datasets.ClassLabel(names=["b", "a"])}, [0, 1, 0, 1, 1, 0], ["b", "a"], [0, 0, 1]),
        ({"label": datasets.Value("int32")}, [3, 0, 1, 1, None, 0], ["0", "1", "2", "3"], [3, 1, -1]),
        ({"Label": datasets.Value("string")}, ["x", "q", "y", "y", "z", ""], ["q", "x", "y", "z"], [1, 2, 3]),
        (None, list("abcabc"), [], [-1, -1, -1]),
    ],
)
def test_parquet_files_by_the_types_of_their_columns(tmp_path, features, labels, classes, read):
    name = next(iter(features)) if features else "caption"
    spec = parquet(tmp_path / "set", features, **{name: labels})
    source = open_source(spec)
    assert (source.names, source.labels.tolist(), source.classes) == (["train/0", "train/1", "train/2"], read, classes)
    assert [source.encoded(row) for row in range(3)] == IMAGES[::2]
    assert [open_source(spec, "eval").encoded(row) for row in range(3)] == IMAGES[1::2]


def test_one_parquet_file_without_types_is_split_by_the_rule(tmp_path):
    import pyarrow
    from pyarrow import parquet as files

    rows = [IMAGES[row % 6] for row in range(40)]
    files.write_table(pyarrow.table({"jpeg": rows, "cls": [row % 3 for row in range(40)]}), tmp_path / "all.parquet")
    train = open_source(f"hf:{tmp_path}/all.parquet")
    with pytest.warns(KdcacheWarning, match="one in 10"):
        other = open_source(f"hf:{tmp_path}/all.parquet", "eval")
    assert sorted(train.names + other.names) == sorted(f"train/{row}" for row in range(40))
    for source in (train, other):
        numbers = [int(name.removeprefix("train/")) for name in source.names]
        assert source.labels.tolist() == [number % 3 for number in numbers]
        assert [source.encoded(row) for row in range(len(source))] == [rows[number] for number in numbers]


def test_what_was_saved_is_opened_where_it_lies(tmp_path):
    made = table({"y": datasets.ClassLabel(names=["a", "b"])}, y=[0, 1] * 3)
    datasets.DatasetDict(train=made.select([5, 3, 1]), validation=made.select([0])).save_to_disk(tmp_path / "set")
    source = open_source(f"hf:{tmp_path}/set")
    assert [source.encoded(row) for row in range(3)] == [IMAGES[5], IMAGES[3], IMAGES[1]]
    assert open_source(f"hf:{tmp_path}/set", "eval").names == ["validation/0"]
    made.save_to_disk(tmp_path / "one")
    assert len(open_source(f"hf:{tmp_path}/one")) <= 6


def test_splits_and_columns_by_name(tmp_path):
    twice = table(
        {"a": datasets.ClassLabel(names=["x", "y"]), "b": datasets.ClassLabel(num_classes=3)}, a=[0, 1] * 3, b=[2] * 6
    )
    datasets.DatasetDict(first=twice, second=twice.select([1])).save_to_disk(tmp_path / "set")
    spec = f"hf:{tmp_path}/set,label=b,train=first,eval=second,image=image"
    assert open_source(spec).labels.tolist() == [2] * 6
    assert open_source(spec, "eval").names == ["eval/0"]
    for options, words in {
        "": "expected a split train, found first, second; name them: hf:NAME,train=SPLIT,eval=SPLIT",
        ",train=first": "expected one column of labels, found 2 of .*; say which: hf:NAME,label=COLUMN",
        ",train=frist": "expected a split 'frist', found first, second; did you mean first",
        ",train=first,label=c": "expected a column 'c', found image .Image., a .ClassLabel., b",
    }.items():
        with pytest.raises(SourceError, match=words):
            open_source(f"hf:{tmp_path}/set{options}")
    with pytest.raises(UsageError, match="options image, label, config, train, eval"):
        open_source(f"hf:{tmp_path}/set,lable=b")


def test_a_test_split_without_labels_gives_way(tmp_path):
    made = table({"y": datasets.ClassLabel(names=["a", "b"])}, y=[0, 1] * 3)
    none = table({"y": datasets.ClassLabel(names=["a", "b"])}, y=[-1] * 6)
    datasets.DatasetDict(train=made, test=none, validation=made).save_to_disk(tmp_path / "set")
    assert open_source(f"hf:{tmp_path}/set", "eval").names[0] == "validation/0"


def test_the_evaluation_split_alone_may_be_named(tmp_path):
    made = table({"y": datasets.ClassLabel(names=["a", "b"])}, y=[0, 1] * 3)
    parts = datasets.DatasetDict(train=made, test=made, validation=made.select([4]))
    parts.save_to_disk(tmp_path / "set")
    spec = f"hf:{tmp_path}/set,eval=validation"
    assert len(open_source(spec)) == 6
    assert open_source(spec, "eval").names == ["eval/0"]


def test_a_format_that_was_saved_does_not_hide_the_images(tmp_path):
    made = table({"y": datasets.ClassLabel(names=["a", "b"])}, y=[0, 1] * 3)
    made.set_format("numpy", columns=["y"])
    datasets.DatasetDict(train=made).save_to_disk(tmp_path / "set")
    source = open_source(f"hf:{tmp_path}/set")
    assert source.encoded(0) in IMAGES


def test_a_changed_parquet_file_is_read_anew(tmp_path):
    spec = parquet(tmp_path / "set", {"label": datasets.Value("int64")}, label=[0] * 6)
    before = open_source(spec).digests([0])
    parquet(tmp_path / "set", {"label": datasets.Value("int64")}, ("test", "train"), label=[0] * 6)
    assert open_source(spec).digests([0]) != before


def test_images_that_are_missing_are_named(tmp_path):
    images = [{"bytes": data, "path": None} for data in IMAGES[:5]] + [None]
    made = table({"label": datasets.Value("int64")}, image=images, label=[0] * 6)
    datasets.DatasetDict(train=made, test=made.select([0])).save_to_disk(tmp_path / "set")
    with pytest.raises(SourceError, match=r"set train/5: expected an image, found nothing"):
        open_source(f"hf:{tmp_path}/set").check()


class Armed:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("armed"),))


@pytest.mark.parametrize("name", ["train.pkl", "train.pickle", "set.py", "data.pt"])
def test_nothing_in_a_folder_is_executed(in_tmp, name):
    (in_tmp / "set").mkdir()
    script = b"from pathlib import Path; Path('armed').touch()"
    (in_tmp / "set" / name).write_bytes(script if name.endswith("py") else pickle.dumps(Armed()))
    with pytest.raises(SourceError, match="expected parquet or arrow files, found none"):
        open_source("hf:./set")
    parquet(in_tmp / "set", {"label": datasets.Value("int64")}, label=[0] * 6)
    open_source("hf:./set").check()
    assert not (in_tmp / "armed").exists()


@pytest.mark.parametrize("content", [b"", b"PAR1" + bytes(100), b"PAR1\xff\xff\xff\x7fPAR1"])
def test_a_damaged_file_is_refused_in_a_line(tmp_path, content):
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(SourceError, match="expected a data set of images, found") as caught:
        open_source(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_what_is_nowhere(in_tmp):
    with pytest.raises(SourceError, match="expected a folder or a parquet file, found nothing there"):
        open_source("hf:./nowhere")
    with pytest.raises(SourceError, match=r"expected a data set of images, found .*; name a data set"):
        open_source("hf:nobody/nowhere")


def test_without_the_library_the_extra_is_named(monkeypatch, in_tmp):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datasets" else find(name))
    refused("train-teacher --model tiny --data hf:./x", 1, "pip install 'kdcache[hf]'")


def test_what_of_a_name_is_a_path():
    names = ["/a/b,label=c", "./a", "~/a.b", "x/y.parquet,label=z", "user/set,config=c", "mnist"]
    assert [path_of(name) for name in names] == ["/a/b", "./a", "~/a.b", "x/y.parquet", "", ""]


SPLIT_OF = {
    "train_0.parquet": "train",
    "birds-test.parquet": "test",
    "test-00000-of-1.parquet": "test",
    "x.parquet": "train",
}


@pytest.mark.parametrize("name", SPLIT_OF)
def test_a_word_in_a_name_tells_the_split(name):
    assert split_in(Path("data") / name) == SPLIT_OF[name]
