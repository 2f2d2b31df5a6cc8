"""Run folders read and brought together: trainings that differ in their seed alone are one group."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev

from kdcache.checks import short
from kdcache.errors import UsageError
from kdcache.limits import read_text
from kdcache.measures import MEASURES
from kdcache.report.statistics import half_difference, half_interval, welch
from kdcache.runs import read_metrics

MOST_BYTES = 1 << 26  # of an evaluation: a confusion matrix of some thousand classes
UNSAID = re.compile(
    r"seed$|fingerprint|classes|rows|split|mean$|std$|shapes|options|run_key|knowledge|file|path|libraries|cache\.method|teacher\.(?!model$)"
)
"""Facts that tell groups apart and that nobody would name one by."""
SAID = {"teacher.model": "by"}
"""How a fact is called beside its value, where its own last word does not do."""


@dataclass
class Trained:
    """A training, as its folder tells of it. What is no finite number among its measures is left out."""

    folder: Path
    facts: dict
    made: dict
    result: dict[str, float]
    records: list[dict]
    evaluation: dict

    @property
    def seed(self) -> object:
        settings = self.facts.get("settings")
        return settings.get("seed", 0) if isinstance(settings, dict) else 0

    @cached_property
    def said(self) -> dict[str, str]:
        """Every fact by its path, as text."""
        return dict(flat(self.facts))

    @cached_property
    def key(self) -> str:
        if "settings" not in self.facts:  # weights that were brought along: no two of them are seeds of one training
            return str(self.folder)
        return json.dumps({name: text for name, text in self.said.items() if not name.endswith("seed")}, sort_keys=True)


@dataclass
class Group:
    """Trainings that differ in their seed alone, and the plain ones that they are compared with."""

    runs: list[Trained]
    label: str = ""
    baseline: Group | None = field(default=None, repr=False)

    @property
    def facts(self) -> dict[str, str]:
        return self.runs[0].said

    @property
    def is_teacher(self) -> bool:
        return self.facts.get("kind") != "student"

    @property
    def is_plain(self) -> bool:
        return self.facts.get("kind") == "student" and self.facts.get("method") == "none"

    def values(self, name: str) -> list[float]:
        return [run.result[name] for run in self.runs if name in run.result]

    def mean(self, name: str) -> float | None:
        values = self.values(name)
        return fmean(values) if values else None

    def std(self, name: str) -> float | None:
        values = self.values(name)
        return stdev(values) if len(values) > 1 else None

    def half(self, name: str) -> float | None:
        """Half the interval of the mean."""
        return half_interval(self.values(name))

    def gain(self, name: str) -> float | None:
        """By how much its mean is above that of the plain ones."""
        own, plain = self.mean(name), self.baseline.mean(name) if self.baseline else None
        return None if own is None or plain is None else own - plain

    def gain_half(self, name: str) -> float | None:
        """Half the interval of the gain."""
        return None if self.baseline is None else half_difference(self.values(name), self.baseline.values(name))

    def p(self, name: str) -> float | None:
        """How likely such a difference is by chance."""
        return None if self.baseline is None else welch(self.values(name), self.baseline.values(name))

    def by_epoch(self, name: str) -> list[tuple[int, float, float | None]]:
        """(epoch, mean over the seeds, half the interval) wherever it was measured."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            for record in run.records:
                if is_number(record.get(name)):
                    found.setdefault(record["epoch"], []).append(record[name])
        return [(epoch, fmean(values), half_interval(values)) for epoch, values in sorted(found.items())]

    @cached_property
    def classes(self) -> list[str]:
        return next((run.evaluation["classes"] for run in self.runs if run.evaluation), [])

    @cached_property
    def evaluations(self) -> list[dict]:
        """Of its runs, those of the same classes."""
        return [run.evaluation for run in self.runs if run.evaluation and run.evaluation["classes"] == self.classes]

    @cached_property
    def confusion(self) -> list[list[int]]:
        """Summed over the seeds; nothing of many classes, of which none is kept."""
        tables = [one["confusion"] for one in self.evaluations if one.get("confusion")]
        return [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]

    @cached_property
    def reliability(self) -> list[dict[str, float]]:
        """The bins of all seeds together."""
        bins: dict[float, list[dict]] = {}
        for one in (one for evaluation in self.evaluations for one in evaluation.get("reliability", [])):
            bins.setdefault(one["to"], []).append(one)
        return [together(bins[to]) for to in sorted(bins)]


@dataclass
class Study:
    """All groups, teachers first and each sort by accuracy, and the folders of trainings that have not ended."""

    groups: list[Group]
    unfinished: list[Trained]

    @property
    def runs(self) -> list[Trained]:
        return [run for group in self.groups for run in group.runs]


def collect(paths: Iterable[Path]) -> Study:
    """The runs in these folders and below them; those that were moved aside only where they are named."""
    runs = [run for path in paths for run in runs_below(Path(path))]
    runs = list({run.folder.resolve(): run for run in runs}.values())
    ended, unfinished = [run for run in runs if run.result], [run for run in runs if not run.result]
    groups: dict[str, Group] = {}
    for run in ended:
        groups.setdefault(run.key, Group([])).runs.append(run)
    for group in groups.values():
        group.runs.sort(key=lambda run: (str(run.seed).rjust(20), str(run.folder)))
    found = sorted(groups.values(), key=lambda group: (not group.is_teacher, -(group.mean("top1") or 0)))
    name(found)
    for group in found:
        group.baseline = plain_of(group, found)
    return Study(found, unfinished)


def runs_below(path: Path) -> list[Trained]:
    if not path.is_dir():
        raise UsageError(path, "the folder of a run, or one with such folders", "no such folder", "check the path")
    if (path / "run.json").exists():
        return [run] if (run := read(path)) else []
    below = sorted(place.parent for place in path.rglob("run.json"))
    kept = [folder for folder in below if not re.search(r"~\d+(/|$)", str(folder.relative_to(path)))]
    found = [run for folder in kept if (run := read(folder))]
    if not found:
        raise UsageError(path, "runs of kdcache", "none", "name the folder of a run, or the one that --runs named")
    return found


def read(folder: Path) -> Trained | None:
    """None where it is no run of ours."""
    described = read_json(folder / "run.json")
    if "result" not in described and "settings" not in described:
        return None
    result, made = (described.pop(name, {}) for name in ("result", "made"))
    evaluation = read_json(folder / "evaluation.json")
    return Trained(
        folder, described, made if isinstance(made, dict) else {}, measures_in(result),
        list(read_metrics(folder)), evaluation if is_evaluation(evaluation) else {},
    )  # fmt: skip


def read_json(path: Path) -> dict:
    """What stands in a file; nothing where it is damaged."""
    try:
        found = json.loads(read_text(path, MOST_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def measures_in(result: object) -> dict[str, float]:
    """The finite numbers that the table of measures knows."""
    known = result.items() if isinstance(result, dict) else ()
    return {name: value for name, value in known if name in MEASURES and is_number(value)}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_evaluation(found: Mapping) -> bool:
    """Whether its confusion matrix is square, where it has one, and lists have the right length."""
    classes, table, bins = (found.get(name, []) for name in ("classes", "confusion", "reliability"))
    if not (isinstance(classes, list) and classes and isinstance(table, list) and isinstance(bins, list)):
        return False
    rows = [row for row in table if isinstance(row, list) and len(row) == len(classes)]
    keys = ("above", "to", "rows", "confidence", "accuracy")
    return (
        len(rows) == len(table) in (0, len(classes))
        and all(is_number(cell) and cell >= 0 for row in rows for cell in row)
        and all(isinstance(one, dict) and all(is_number(one.get(key)) for key in keys) for one in bins)
    )


def together(bins: Sequence[dict]) -> dict[str, float]:
    """Bins of the same confidences as one."""
    rows = sum(one["rows"] for one in bins)
    weights = [one["rows"] / rows if rows else 0.0 for one in bins]
    means = {
        name: sum(weight * one[name] for weight, one in zip(weights, bins, strict=True))
        for name in ("confidence", "accuracy")
    }
    return bins[0] | {"rows": rows} | means


def flat(facts: object, place: str = "") -> Iterable[tuple[str, str]]:
    """Every fact with its path: settings.lr, cache.views."""
    if isinstance(facts, dict):
        for name, value in facts.items():
            yield from flat(value, f"{place}.{name}" if place else str(name))
    elif facts is not None:
        yield place, short(", ".join(map(str, facts)) if isinstance(facts, list) else facts, 200)


def name(groups: list[Group]) -> None:
    """Labels of what differs: the method first, then the network where there are several, then other facts."""
    students = [group for group in groups if not group.is_teacher]
    varied = varying(students)
    for group in groups:
        if group.is_teacher:
            group.label = f"teacher {group.facts.get('model', '')}".strip()
            continue
        facts = group.facts
        parts = ["plain" if group.is_plain else facts.get("method", "?")]
        parts += [facts["model"]] if "model" in varied and "model" in facts else []
        others = [key for key in varied if key in facts and key not in ("model", "method")]
        told = [worded(key, facts[key]) for key in others if facts[key] != "False"]
        group.label = ", ".join([" · ".join(parts), *told])
    labels = [group.label for group in groups]
    for number, group in enumerate(groups):
        if labels.count(group.label) > 1 and (before := labels[:number].count(group.label)):
            group.label = f"{group.label} ({before + 1})"


def worded(key: str, value: str) -> str:
    """A fact in a word or two."""
    word = SAID.get(key, key.rpartition(".")[2])
    return word if value == "True" else f"{word} {short(value, 24)}"


def varying(groups: Sequence[Group]) -> list[str]:
    """The facts that have more than one value among those that state them."""
    names = dict.fromkeys(key for group in groups for key in group.facts)
    told = (key for key in names if not UNSAID.search(key))
    return [key for key in told if len({group.facts[key] for group in groups if key in group.facts}) > 1]


def plain_of(group: Group, groups: Sequence[Group]) -> Group | None:
    """The plain students that differ least from these: of the same network, images and epochs in any case."""
    if group.is_teacher or group.is_plain:
        return None

    def apart(other: Group) -> int:
        return len(group.facts.items() ^ other.facts.items())

    must = ("model", "data.spec", "data.fraction", "settings.epochs")
    alike = [one for one in groups if one.is_plain and all(one.facts.get(k) == group.facts.get(k) for k in must)]
    return min(alike, key=apart, default=None)
