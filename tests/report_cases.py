"""Run folders as trainings leave them, made in an instant."""

import json
from pathlib import Path

import torch

from kdcache.measures import Outcome, every, numbers
from kdcache.runs import Run

CLASSES = ("cat", "dog", "bird", "fish", "ox", "newt")


def made_run(
    root: Path, method: str = "st", seed: int = 0, *, model: str = "tiny", skill: float = 2.0, epochs: int = 3,
    classes=CLASSES, rows: int = 120, ended: bool = True, name: str | None = None, kind: str = "student",
    teacher: str = "large", **settings,
) -> Path:  # fmt: skip
    """A finished training whose network is the more often right the greater its skill."""
    facts = {
        "kind": kind, "model": model, "method": method, "data": {"spec": "birds", "fraction": 1.0},
        "settings": {"epochs": epochs, "lr": 0.1, "seed": seed, **settings}, "cache": {"views": 10}, "live": False,
        "teacher": {"model": teacher, "fingerprint": teacher, "classes": len(classes)},
    }  # fmt: skip
    if kind == "teacher":
        del facts["method"], facts["cache"], facts["teacher"]
    run = Run(root / (name or f"{kind}-{method}-{model}-{seed}"), facts)
    run.begin()
    outcome = answers(classes, rows, skill, 100 * seed + len(method))
    last = numbers(outcome)
    records = [
        {"epoch": epoch, "stage": "main", "total": 1 / epoch, "train_top1": 0.5}
        | {name: value * (0.5 + 0.5 * epoch / epochs) for name, value in last.items()}
        for epoch in range(1, epochs + 1)
    ]
    run.path("metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if ended:
        run.keep("evaluation.json", {"classes": list(classes)} | every(outcome))
        costs = {"seconds": 3.0 + seed, "train_seconds": 2.0 + skill, "peak_bytes": 10**9, "parameters": 1000}
        made = {"date": "2026-01-02", "device": "a processor, 2 cores", "kdcache": "0.1.0"}
        run.finish(last | costs | {"cache_bytes": 10**6, "epochs": epochs}, made=made)
    return run.folder


def answers(classes, rows: int, skill: float, seed: int) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % len(classes)
    logits = torch.randn(rows, len(classes), generator=generator)
    logits[torch.arange(rows), labels] += skill
    return Outcome(logits, labels, torch.randn(rows, len(classes), generator=generator))


def study(root: Path, seeds: int = 3) -> Path:
    """A teacher, plain students, and two methods."""
    made_run(root, kind="teacher", model="large", skill=6.0)
    for seed in range(seeds):
        for method, skill in (("none", 1.0), ("st", 2.5), ("at", 1.1)):
            made_run(root, method, seed, skill=skill)
    return root


def result_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())["result"]
