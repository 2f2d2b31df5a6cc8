"""The one training loop: teachers, plain students, students of a cache, of a live teacher, and of each other.

for epoch: for batch: looks, knowledge -> method.loss -> step;  then evaluate, log, save
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from kdcache.batches import Loader
from kdcache.measures import numbers
from kdcache.methods import Method
from kdcache.models.network import Network
from kdcache.models.weights import save
from kdcache.runs import Run
from kdcache.teachers import Answers
from kdcache.train.evaluate import Evaluation
from kdcache.train.optim import Settings
from kdcache.train.records import figures, line, time_left
from kdcache.train.state import read_state, restore, save_state
from kdcache.train.trainer import Trainer
from kdcache.types import quiet


def fit(
    students: Sequence[Network],
    method: Method,
    teacher: Answers,
    loader: Loader,
    views: int,
    settings: Settings,
    evaluation: Evaluation | None = None,
    run: Run | None = None,
    progress: Callable = quiet,
    remark: Callable = quiet,
    about: Mapping[str, float] = MappingProxyType({}),
) -> list[dict]:
    """Trains the students together, and gives the records of all epochs; a run says whether it goes on from earlier.

    `progress` wraps the batches of an epoch, as tqdm does; `remark` is called with a line at the end of each.
    `about` is what a run keeps beside what is measured: the number of weights, say.
    """
    trainer = Trainer(students, method, teacher, loader, views, settings)
    records, best, outcome = [], None, None
    with trainer.watching():
        if run and run.begin(remark):
            done, best = restored(trainer, run)
            records = run.forget_after(done)
        laps = [time.perf_counter()]
        for stage, epoch in trainer.remaining(len(records)):
            record = trainer.epoch(stage, epoch, progress)
            judged = evaluation is not None and settings.evaluates(epoch)
            if judged:
                outcome = evaluation.outcome(students[0])
                record |= numbers(outcome)
            laps.append(time.perf_counter())
            record["seconds"] = round(laps[-1] - laps[-2], 3)
            records.append(record)
            remark(line(record, settings.epochs, time_left(laps, settings.epochs - epoch)))
            if run:
                run.log(record)
                best = keep(run, students[0], record, best, judged or evaluation is None)
                save_state(run.path("state.safetensors"), trainer, epoch, best)
        if run:
            if evaluation is not None:
                run.keep("evaluation.json", evaluation.page(outcome or evaluation.outcome(students[0])))
            run.finish(figures(records) | dict(about))
    return records


def keep(run: Run, student: Network, record: dict, best: float | None, judged: bool) -> float | None:
    """Saves the last network, and the best by accuracy if that was measured; the score of the best."""
    score = record.get("top1", -record["total"])
    facts = {"epoch": record["epoch"]} | {name: record[name] for name in ("top1", "agreement") if name in record}
    save(student, run.path("last.safetensors"), **facts)
    if not judged or (best is not None and score <= best):
        return best
    save(student, run.path("best.safetensors"), **facts)
    return score


def restored(trainer: Trainer, run: Run) -> tuple[int, float | None]:
    """Puts a trainer where a run was left: the epochs that are done, and the best score."""
    path = run.path("state.safetensors")
    facts, tensors = read_state(path)
    trainer.enter(next(stage for stage in trainer.stages if stage.name == facts["stage"]))
    restore(path, trainer, tensors)
    return facts["epoch"], facts["best"]
