"""The page of `evaluate`: measures, classes, and which are taken for which."""

import pytest
import torch
from cli_cases import WEIGHTS, good

from kdcache.cli.measured import MOST_CLASSES, MOST_COLUMNS, MOST_PAIRS, evaluation_page
from kdcache.measures import MEASURES, Outcome, every


def facts(classes: int, rows: int = 400) -> dict:
    generator = torch.Generator().manual_seed(classes)
    found = Outcome(
        torch.randn(rows, classes, generator=generator), torch.randint(classes, (rows,), generator=generator)
    )
    seen = {"model": "tiny", "data": "folder:birds", "rows": rows, "view": "centre", "size": [64, 64]}
    return seen | {"classes": [f"bird {c}" for c in range(classes)]} | every(found)


def table(page: str, head: str) -> list[str]:
    """The lines of the table that begins so."""
    return next(part for part in page.split("\n\n") if part.startswith(head)).splitlines()[1:]


def test_every_number_stands_with_what_it_means():
    found = facts(7)
    lines = evaluation_page(found).split("\n\n")[1].splitlines()
    measured = [name for name, one in MEASURES.items() if one.shape == "number" and name in found]
    assert [line.split()[0] for line in lines] == measured
    for name, line in zip(measured, lines, strict=True):
        assert line.endswith(f"{MEASURES[name].text(found[name])}  {MEASURES[name].help}")


def test_every_class_has_a_line_with_its_name():
    found = facts(7)
    lines = table(evaluation_page(found), "class ")
    assert [line.split("  ")[0] for line in lines] == found["classes"]
    recalls = [MEASURES["recall_by_class"].text(value) for value in found["recall_by_class"]]
    assert all(recall in line for recall, line in zip(recalls, lines, strict=True))


def test_of_many_classes_the_worst_are_shown():
    found = facts(MOST_CLASSES + 20)
    page = evaluation_page(found)
    shown = {line.split("  ")[0] for line in table(page, "class ")}
    left_out = [f1 for name, f1 in zip(found["classes"], found["f1_by_class"], strict=True) if name not in shown]
    assert len(shown) == MOST_CLASSES
    assert min(left_out) >= sorted(found["f1_by_class"])[MOST_CLASSES - 1]
    assert f"the {MOST_CLASSES} of {MOST_CLASSES + 20} classes with the lowest F1" in page


def test_the_matrix_has_a_row_for_each_label():
    found = facts(4)
    assert "label" not in evaluation_page(found).split("class ")[1]
    rows = [line.split()[2:] for line in table(evaluation_page(found, confusion=True), "label")]
    assert [[0 if cell == "·" else int(cell) for cell in row] for row in rows] == found["confusion"]


def test_of_many_classes_the_most_frequent_mistakes_are_shown():
    found = facts(MOST_COLUMNS + 1)
    lines = table(evaluation_page(found, confusion=True), "label ")
    wrong = sorted((n for a, row in enumerate(found["confusion"]) for b, n in enumerate(row) if a != b), reverse=True)
    assert [int(line.split()[-1]) for line in lines] == wrong[:MOST_PAIRS]


def test_without_labels_there_are_no_classes():
    seen = {"model": "tiny", "data": "d", "rows": 3, "view": "none", "size": [8, 8], "classes": ["a", "b"]}
    answers = torch.randn(3, 2)
    page = evaluation_page(seen | every(Outcome(answers, torch.full((3,), -1), answers)), confusion=True)
    assert "agreement  100.00 %" in page
    assert "class" not in page.replace("class: top-1 match", "")


@pytest.mark.usefixtures("home")
def test_the_command_says_it_and_json_has_all():
    found = good(f"evaluate {WEIGHTS} --json").json()
    assert found.keys() >= {"top1", "f1", "precision_by_class", "confusion", "reliability", "classes"}
    assert good(f"evaluate {WEIGHTS} --confusion").out.rstrip() == evaluation_page(found, confusion=True)
    assert found["checkpoint"] == WEIGHTS
