"""The page of a report: groups, numbers, links, and that nothing in a file becomes a part of the page."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from cli_cases import good, refused
from PIL import Image
from report_cases import made_run, result_of, study
from scipy import stats

from kdcache import jobs
from kdcache.errors import UsageError
from kdcache.measures import MEASURES
from kdcache.report import figures, picture
from kdcache.report.collect import collect
from kdcache.report.scales import Axis, around

EVIL = '"><script>alert(1)</script><b onclick=x>&'
VOID = ("meta", "img")


class Page(HTMLParser):
    """What a browser would find: elements, texts, links."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.tags, self.texts, self.links, self.names = [], [], [], [], set()
        self.feed(path.read_text())
        assert self.open == []  # every element is closed

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        assert len(given) == len(attributes)
        assert not [name for name in given if name.startswith("on")]
        self.links += [value for name, value in attributes if name in ("href", "src")]
        self.names |= {given["id"]} if "id" in given else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def runs(tmp_path) -> Path:
    return study(tmp_path / "runs")


def written(runs: Path, **options) -> tuple[dict, Page]:
    out = runs.parent / "report.html"
    return jobs.report([str(runs)], str(out), **options), Page(out)


def test_trainings_that_differ_in_their_seed_are_one_group(runs):
    found = collect([runs])
    assert [(group.label, len(group.runs)) for group in found.groups] == [
        ("teacher large", 1), ("st", 3), *sorted([("at", 3), ("plain", 3)], key=lambda one: -mean_of(runs, one[0])),
    ]  # fmt: skip
    assert [run.seed for run in found.groups[1].runs] == [0, 1, 2]


def mean_of(runs: Path, label: str) -> float:
    method = {"plain": "none"}.get(label, label)
    return fmean(result_of(folder)["top1"] for folder in runs.glob(f"student-{method}-*"))


def test_students_are_compared_with_plain_ones(runs):
    groups = {group.label: group for group in collect([runs]).groups}
    assert groups["plain"].baseline is groups["teacher large"].baseline is None
    st, plain = groups["st"], groups["plain"]
    assert st.baseline is plain
    some, others = ([result_of(run.folder)["top1"] for run in group.runs] for group in (st, plain))
    assert st.gain("top1") == pytest.approx(np.mean(some) - np.mean(others))
    assert st.p("top1") == pytest.approx(stats.ttest_ind(some, others, equal_var=False).pvalue)


def test_the_plain_students_are_those_of_the_same_network_and_length(tmp_path):
    for model, epochs in (("small", 3), ("large", 3), ("small", 4)):
        for method in ("none", "st"):
            made_run(tmp_path, method, model=model, epochs=epochs, name=f"{method}{model}{epochs}")
    made_run(tmp_path, "st", model="other")
    pairs = {(g.runs[0].folder.name, g.baseline and g.baseline.runs[0].folder.name) for g in collect([tmp_path]).groups}
    assert pairs == {
        ("stsmall3", "nonesmall3"), ("stlarge3", "nonelarge3"), ("stsmall4", "nonesmall4"),
        ("nonesmall3", None), ("nonelarge3", None), ("nonesmall4", None), ("student-st-other-0", None),
    }  # fmt: skip


def test_labels_name_what_differs(tmp_path):
    made_run(tmp_path, "st", model="tiny")
    made_run(tmp_path, "st", model="large")
    made_run(tmp_path, "st:T=2", model="tiny")
    made_run(tmp_path, "st", model="tiny", lr=0.5, name="fast")
    labels = {group.label for group in collect([tmp_path]).groups}
    assert labels == {"st · tiny, lr 0.1", "st · large, lr 0.1", "st:T=2 · tiny, lr 0.1", "st · tiny, lr 0.5"}


def test_labels_name_the_teacher_where_there_are_several(tmp_path):
    for teacher in ("large", "small"):
        made_run(tmp_path, "st", teacher=teacher, name=teacher)
    assert {group.label for group in collect([tmp_path]).groups} == {"st, by large", "st, by small"}


def test_every_mean_and_every_run_is_in_the_page(runs):
    found, page = written(runs)
    assert found["trainings"] == 10
    for group in collect([runs]).groups:
        assert f"{100 * group.mean('top1'):.2f}" in page.texts
        for run in group.runs:
            shown = MEASURES["nll"].text(result_of(run.folder)["nll"])
            assert shown in page.texts


def test_links_lead_to_the_runs_and_nothing_leads_elsewhere(runs, monkeypatch):
    monkeypatch.chdir(runs)  # links are relative to the page, wherever the command is given
    _, page = written(runs)
    inside = {link[1:] for link in page.links if link.startswith("#")}
    outside = {link for link in page.links if not link.startswith("#")}
    assert inside <= page.names
    folders = {run.folder.resolve() for run in collect([runs]).runs}
    assert {(runs.parent / link).resolve() for link in outside} == folders


def test_the_page_loads_nothing(runs):
    written(runs)
    text = (runs.parent / "report.html").read_text()
    assert "default-src 'none'" in text
    assert not [word for word in ("http:", "https:", "//cdn", "@import", "url(", "fetch(") if word in text]


def test_what_stands_in_files_stays_text(tmp_path):
    classes = [f"{EVIL}{c}" for c in range(3)]
    for method in ("none", f"st{EVIL}", "at|`*_"):
        made_run(tmp_path / "runs", method, classes=classes, model=EVIL, name=f"run {len(method)} <i>'\"&#?%.|")
    found, page = written(tmp_path / "runs", title=EVIL, markdown_to=str(tmp_path / "r.md"))
    assert page.tags.count("script") == 1
    assert EVIL in page.texts
    assert all((tmp_path / "runs" / Path(run).name).is_dir() for group in found["groups"] for run in group["runs"])
    text = (tmp_path / "r.md").read_text()
    assert "<script>" not in text.replace("\\<script\\>", "")
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 3, lines  # of three tables


def test_the_same_runs_give_the_same_page(runs):
    texts = []
    for _ in range(2):
        written(runs)
        texts.append((runs.parent / "report.html").read_bytes())
    assert texts[0] == texts[1]


def test_a_large_study_stays_below_a_megabyte(tmp_path):
    names = [f"a class of many words {c}" for c in range(100)]
    for number in range(30):
        for seed in range(2):
            method = "none" if number == 0 else f"st:T={number}"
            made_run(tmp_path / "runs", method, seed, epochs=200, rows=100, classes=names if number % 2 else names[:24])
    noise = np.random.default_rng(0).integers(0, 256, (700, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "runs" / "sheet.png")
    _, page = written(tmp_path / "runs")
    assert (tmp_path / "report.html").stat().st_size < 1e6
    assert any(link.startswith("data:image/jpeg") for link in page.links)
    assert page.tags.count("tr") > 60  # every run is in the tables
    left_out = 30 - figures.MOST_DRAWN
    assert any(f"{left_out} groups more in the tables." in text for text in page.texts)


def test_csv_has_a_line_for_each_training_with_all_it_is_made_of(runs):
    written(runs, csv_to=str(runs / "all.csv"))
    with open(runs / "all.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10
    for line in lines:
        result = result_of(runs / line["folder"])
        assert {name: float(line[name]) for name in ("top1", "nll", "seconds")} == {
            name: result[name] for name in ("top1", "nll", "seconds")
        }
        assert (line["settings.lr"], line["made.device"]) == ("0.1", "a processor, 2 cores")


def test_a_training_that_did_not_end_is_told_and_left_out(runs):
    made_run(runs, "st", 9, ended=False)
    found, page = written(runs)
    assert (found["trainings"], found["unfinished"]) == (10, 1)
    assert any("student-st-tiny-9 ended after epoch 3" in text for text in page.texts)


def test_what_was_moved_aside_counts_where_it_is_named(runs):
    aside = (runs / "student-st-tiny-0").rename(runs / "student-st-tiny-0~1")
    assert len(collect([runs]).runs) == 9
    assert len(collect([runs, aside]).runs) == 10
    assert len(collect([runs, runs / "student-st-tiny-1", aside]).runs) == 10  # none twice


BINS = '{"classes": ["a"], "confusion": [[1]], "reliability": [{"to": 1}]}'
CELLS = '{"classes": ["a"], "confusion": [["x"]], "reliability": []}'
LENGTHS = '{"classes": ["a", "b"], "confusion": [[1, 2], [3]], "reliability": []}'


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"classes": 3, "confusion": 1}', BINS, CELLS, LENGTHS])
def test_a_damaged_evaluation_costs_its_drawings_alone(runs, text):
    for folder in runs.glob("student-*"):
        (folder / "evaluation.json").write_text(text)
    (runs / "student-at-tiny-0" / "metrics.jsonl").write_text('{"epoch": 1, "total": "x", "top1": null}\n{"epo')
    found, _ = written(runs)
    assert found["trainings"] == 10


@pytest.mark.parametrize("result", ["{}", '{"top1": NaN, "nll": 1e999}', '{"top1": "0.9"}', '{"top1": true}', "3"])
def test_numbers_that_are_none_are_left_out(runs, result):
    (runs / "student-st-tiny-0" / "run.json").write_text(f'{{"settings": {{"seed": 0}}, "result": {result}}}')
    found, _ = written(runs)
    assert (found["trainings"], found["unfinished"]) == (9, 1)


def test_a_single_training_has_a_page_without_intervals(tmp_path):
    made_run(tmp_path / "runs", "st", epochs=1)
    _, page = written(tmp_path / "runs")
    assert not any("±" in text for text in page.texts)


def test_pictures_are_made_to_fit(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    assert picture.embedded(tmp_path / "small.png").startswith("data:image/png;base64,")
    (tmp_path / "none.png").write_text("no picture")
    with pytest.raises(UsageError, match="a PNG picture"):
        picture.embedded(tmp_path / "none.png")


@pytest.mark.parametrize(("low", "high", "log"), [(0, 1, False), (97.2, 98.9, False), (3, 4e6, True), (5, 5, False)])
def test_ticks_are_few_and_inside(low, high, log):
    axis = Axis(low, high, 0.0, 100.0, log)
    ticks = axis.ticks(5)
    assert 1 <= len(ticks) <= 5
    assert all(-1e-6 <= axis(tick) <= 100 + 1e-6 for tick in ticks)


def test_epochs_are_whole():
    assert Axis(1, 2, 0.0, 100.0, whole=True).ticks(6) == [1, 2]
    assert Axis(1, 30, 0.0, 100.0, whole=True).ticks(6) == [5, 10, 15, 20, 25, 30]


def test_a_page_has_the_title_of_its_recipe(runs):
    assert "runs" in written(runs)[1].texts
    (runs / "table.json").write_text('{"title": "Birds & co"}')
    assert "Birds & co" in written(runs)[1].texts


def test_a_range_holds_its_values():
    assert around([0.0, 1.0]) == pytest.approx((-0.06, 1.06))
    assert around([0.5, 1.0], most=1.0)[1] == 1.0
    assert around([3.0])[0] < 3 < around([3.0])[1]


@pytest.mark.usefixtures("in_tmp")
def test_the_command_writes_what_it_says():
    study(Path("runs"), seeds=2)
    said = good("report runs -o r.html --csv r.csv --markdown r.md")
    assert said.out == "r.html, r.md, r.csv: 7 trainings of 4 kinds\n"
    found = good("report runs -o r.html --json").json()
    assert found["report"] == "r.html"
    assert json.loads(json.dumps(found))["groups"][1]["name"] == "st"


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("report nowhere", "no such folder"), ("report empty", "expected runs of kdcache, found none"),
        ("report runs -o r.pdf", "call it r.html"), ("report runs -o mine.html", "which is none"),
        ("report runs -o no/r.html", "no such folder"), ("report runs --sheet no.png", "expected a picture to show"),
        ("report half", "trainings that have ended, found 1 that did not end"),
    ],
)  # fmt: skip
def test_wrong_use_is_told_before_anything_is_written(line, told):
    made_run(Path("runs"))
    made_run(Path("half"), ended=False)
    Path("empty").mkdir()
    Path("mine.html").write_text("<html>my page")
    refused(line, 2, told)
    assert not Path("report.html").exists()
