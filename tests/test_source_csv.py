"""Images listed in a CSV file: columns, labels, splits, and a name for whatever is wrong with it."""

from pathlib import Path

import numpy as np
import pytest
from reference_views import encoded, picture

from kdcache.errors import KdcacheWarning, SourceError, UsageError
from kdcache.sources import open_source
from kdcache.sources.csv_file import COLUMNS, column, records, text_of
from kdcache.sources.listed import held_out, numbered

HEADER = "path,label,split"


@pytest.fixture
def table(tmp_path):
    """Writes a table beside eight images, 0.png to 7.png; its name."""
    for row in range(8):
        (tmp_path / f"{row}.png").write_bytes(encoded(picture(70, 71 + row, key=row), "PNG"))

    def write(*lines: str, options: str = "", encoding: str = "utf-8") -> str:
        (tmp_path / "list.csv").write_bytes("\n".join(lines).encode(encoding))
        return f"csv:{tmp_path}/list.csv{options}"

    return write


@pytest.mark.parametrize(
    ("header", "options"),
    [
        (HEADER, ""),
        ("PATH, Label ,SPLIT", ""),
        ("FileName,Class,Subset", ""),
        ("ImageID,LabelName,fold", ",path=imageid,split=Fold"),
        ("\ufeffpath,label,split", ""),
        ("path;label;split", ""),
        ("path\tlabel\tsplit", ""),
    ],
)
def test_columns_by_their_names(table, header, options):
    join = next((sep for sep in ";\t" if sep in header), ",").join
    rows = [("0.png", "cat", "train"), ("1.png", "ape", "Train"), ("", "", ""), ("2.png", "cat", " test ")]
    spec = table(header, *(join(row) if row[0] else "" for row in rows), options=options)
    train, held_out = (open_source(spec, split) for split in ("train", "eval"))
    assert (train.names, train.labels.tolist(), train.classes) == (["0.png", "1.png"], [1, 0], ["ape", "cat"])
    assert (held_out.names, held_out.labels.tolist(), held_out.classes) == (["2.png"], [1], ["ape", "cat"])


def test_quotes_and_lines_inside_them(table):
    train = open_source(table(HEADER, '"0.png","a, ""b""",train', '"1.png","two\nlines",train', "2.png,c,val"))
    assert train.classes == ['a, "b"', "c", "two\nlines"]


def test_paths_are_relative_to_the_file_or_absolute(table, tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    lines = [HEADER, f"{tmp_path}/0.png,a,train", "../1.png,b,train", "../2.png,b,test"]
    Path(tmp_path / "lists" / "list.csv").write_text("\n".join(lines))
    table()
    monkeypatch.chdir(tmp_path)
    assert len(open_source("csv:lists/list.csv").check()) == 2


# labels


@pytest.mark.parametrize(
    ("written", "labels", "classes"),
    [
        (["2", "0", "2"], [2, 0, 2], ["0", "1", "2"]),
        (["2.0", "", "-1"], [2, -1, -1], ["0", "1", "2"]),
        (["b", "10", "9"], [2, 0, 1], ["10", "9", "b"]),
        (["/m/04hgtk", "/m/0k0pj", "/m/04hgtk"], [0, 1, 0], ["/m/04hgtk", "/m/0k0pj"]),
        (["", ""], [-1, -1], []),
        (["007", "7"], [7, 7], [str(n) for n in range(8)]),
    ],
)
def test_labels_are_numbers_or_names(written, labels, classes):
    found, names = numbered("x", written)
    assert (found.tolist(), names) == (labels, classes)


@pytest.mark.parametrize("wrong", ["-2", "1000000", "999999999"])
def test_a_label_outside_is_refused(table, wrong):
    with pytest.raises(SourceError, match=rf"list\.csv: expected classes from 0 to 999,999, .*found {wrong}"):
        open_source(table(HEADER, "0.png,0,train", f"1.png,{wrong},train", "2.png,1,test"))


def test_a_table_without_labels(table):
    spec = table("path,split", "0.png,train", "1.png,test")
    for split in ("train", "eval"):
        source = open_source(spec, split)
        assert (source.labels.tolist(), source.classes) == ([-1], [])


# splits


def test_test_goes_before_val_unless_it_has_no_labels(table):
    rows = ["0.png,a,train", "1.png,b,val", "2.png,{},test"]
    for label, name in (("a", "2.png"), ("", "1.png")):
        assert open_source(table(HEADER, *(row.format(label) for row in rows)), "eval").names == [name]


def test_where_nothing_says_it_a_tenth_is_held_out(table, tmp_path):
    rows = [0, 1, 24, 2, 30, 3]
    for row in (24, 30):
        (tmp_path / f"{row}.png").write_bytes(encoded(picture(70, 70, key=row), "PNG"))
    spec = table("path,label", *(f"{row}.png,{row % 2}" for row in rows))
    assert open_source(spec).names == ["0.png", "1.png", "2.png", "3.png"]
    with pytest.warns(KdcacheWarning, match="one in 10 is held out, by a hash of its name"):
        assert open_source(spec, "eval").names == ["24.png", "30.png"]


def test_the_rule_is_of_a_name_alone():
    names = [f"images/{row:06}.jpg" for row in range(50_000)]
    mask = held_out(names)
    assert abs(mask.mean() - 0.1) < 0.005
    assert np.array_equal(held_out(names[::-1])[::-1], mask)
    assert np.array_equal(held_out(names[:1000]), mask[:1000])
    assert np.flatnonzero(mask)[:8].tolist() == RULE, "this rule must never change: caches depend on it"


RULE = [9, 20, 23, 35, 45, 81, 82, 86]


def test_too_few_to_hold_any_out(table):
    with pytest.raises(SourceError, match="expected images for the eval split, found none among 1"):
        open_source(table("path,label", "1.png,0"), "eval")


# what can be wrong

WRONG = {
    "nothing": ([""], "a header and a row for every image, found nothing"),
    "a header alone": ([HEADER], "found a header alone"),
    "no path": (["name,label", "0.png,a"], "a column `path`, found columns name, label; name it: csv:FILE,path=NAME"),
    "a short row": ([HEADER, "0.png,a,train", "1.png,a"], "3 fields in every row, as in its header, found 2 in row 2"),
    "a strange split": ([HEADER, "0.png,a,trian"], "a split of train, training, test,.*found 'trian'"),
    "an empty path": ([HEADER, ",a,train"], "a path in every row, found none in row 1"),
    "NUL": ([HEADER, "0.png,a\0,train"], "text in UTF-8, found the byte 0x00 in line 2"),
    "an open quote": ([HEADER, '"0.png,a,train'], "a CSV file, found .*in line 2"),
    "a long field": ([HEADER, f"{'x' * 200_000},a,train"], "a CSV file, found field larger than"),
    "no such image": ([HEADER, "none.png,a,train"], r"none\.png: expected a readable image, found No such file"),
    "a device": ([HEADER, "/dev/zero,a,train"], "/dev/zero: expected a readable image, found a device"),
    "no image": ([HEADER, "list.csv,a,train"], r"list\.csv: expected a whole JPEG, PNG or WebP image, found no image"),
    "no training rows": ([HEADER, "0.png,a,test"], "images for the train split, found none among 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_broken_table_is_refused_in_a_line(table, case):
    lines, words = WRONG[case]
    with pytest.raises(SourceError, match=words) as caught:
        open_source(table(*lines))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "words"), [("utf-16", "found UTF-16"), ("latin-1", "found the byte 0xe4 in line 2")]
)
def test_another_encoding_is_named(table, encoding, words):
    with pytest.raises(SourceError, match=f"expected text in UTF-8, {words}; save it as UTF-8"):
        open_source(table(HEADER, "0.png,käse,train", encoding=encoding))


@pytest.mark.parametrize("options", [",path=name", ",label=none"])
def test_a_column_that_is_not_there(table, options):
    with pytest.raises(SourceError, match="expected a column '"):
        open_source(table(HEADER, "0.png,a,train", options=options))


@pytest.mark.parametrize("options", [",column=a", ",path=a,path=b", ",path="])
def test_an_option_that_is_none(table, options):
    with pytest.raises(UsageError, match="`data`: expected options path, label, split"):
        open_source(table(HEADER, "0.png,a,train", options=options))


@pytest.mark.slow
def test_a_million_rows(tmp_path):
    """As of Open Images; 1.5 to 2 s of one core."""
    path = tmp_path / "many.csv"
    path.write_text("path,label\n" + "".join(f"images/{n:07}.jpg,/m/{n % 19_958:05}\n" for n in range(10**6)))
    header, rows = records(path, text_of(path))
    names, written = (column(path, header, rows, kind, None) for kind in list(COLUMNS)[:2])
    labels, classes = numbered(path, written)
    assert (names[-1], len(classes), labels.max()) == ("images/0999999.jpg", 19_958, 19_957)
    assert abs(held_out(names).mean() - 0.1) < 0.002
