"""A search for settings of a student: each trial is an ordinary training, judged on rows that it does not learn from.

The evaluation images stay unseen: what is chosen by them is flattered by them. A part of the training rows is held out
instead, the same in every trial. Trials of one study may run in several processes and on several machines.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdcache import jobs
from kdcache.cache import Store
from kdcache.cache.subset import Subset
from kdcache.checks import short
from kdcache.errors import KdcacheError, UsageError, difference
from kdcache.jobs import space as spaces
from kdcache.jobs.data import Data
from kdcache.on_demand import extra
from kdcache.ranks import Ranks
from kdcache.runs import Run, finished, folder_name, read_metrics
from kdcache.sources.arrays import stratified
from kdcache.train import Settings
from kdcache.types import quiet

SHARE = 0.2  # of the training rows, held out
AT_FIRST = 5  # trials that are never pruned, so that there is something to compare with


@dataclass
class Search:
    """What is searched for, on which data."""

    data: Data
    store: Store | None
    space: spaces.Space
    method: str = "st"
    student: str | None = None
    settings: Settings = field(default_factory=Settings)
    share: float = SHARE
    prune: bool = True
    mix: str | None = None
    device: str = "cpu"
    workers: int | None = None

    def __post_init__(self):
        self.student = self.student or jobs.default_student(self.data)
        spaces.require(self.space, self.method, self.student, self.settings)
        self.part, self.seen = parted(self.data, self.store, self.share)

    def trained(self, chosen: dict) -> jobs.Student:
        """The training of a trial."""
        method, student, settings = spaces.applied(chosen, self.method, self.student, self.settings)
        teacher = jobs.taught_by(self.seen)
        how = {"mix": self.mix, "device": self.device, "workers": self.workers}
        return jobs.Student(self.part, student, method, settings, teacher, **how)

    def facts(self) -> dict:
        """What all trials of a study have in common."""
        facts = {
            "data": self.part.train.identity(), **jobs.taught_by(self.store).facts(),
            "space": {name: str(one) for name, one in self.space.items()}, "method": self.method,
            "student": self.student, "settings": self.settings.changed(), "mix": self.mix, "held_out": self.share,
        }  # fmt: skip
        return json.loads(json.dumps(facts))  # as they will be read back


def parted(data: Data, store: Store | None, share: float) -> tuple[Data, Store | None]:
    """Data that is trained on the one part of its training rows and judged on the other."""
    if data.view.mixes:
        raise UsageError("`held_out`", "a view that does not mix rows", data.view.name, "take another cache")
    aside = stratified(data.train.labels, share)
    kept = np.setdiff1d(np.arange(len(data.train)), aside)
    if not len(aside) or not len(kept):
        found = f"{len(kept)} and {len(aside)}"
        raise UsageError("`held_out`", "rows to train on and rows to judge by", found, "try 0.2")
    train, held_out = data.train.take(kept, 1 - share), data.train.take(aside, share)
    if not (held_out.labels >= 0).any():
        remedy = "take images with labels"
        raise UsageError("`held_out`", "rows with labels to judge by", f"none in {data.train.spec}", remedy)
    seen = None if store is None else Subset(store, kept, train.identity(), judged=False)
    if seen is not None:
        train.expect(seen.digests)
    return Data(train, held_out, data.view), seen


def open_study(folder: Path, storage: str | None, search: Search, name: str):
    """The study of that name, begun or gone on with; its trials lie in a journal in the folder, else in `storage`."""
    Ranks.from_environment().require_alone("one process", "start it without torchrun; `processes` N works side by side")
    optuna = extra("optuna", "tune", "tune")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = storage or str(folder / "journal.log")
    pruner = optuna.pruners.MedianPruner(AT_FIRST, search.settings.epochs // 4) if search.prune else None
    try:
        if "://" not in where:
            Path(where).absolute().parent.mkdir(parents=True, exist_ok=True)
            where = JournalStorage(JournalFileBackend(where))
        study = optuna.create_study(
            storage=where, study_name=name, direction="maximize", load_if_exists=True,
            sampler=optuna.samplers.TPESampler(constant_liar=True), pruner=pruner or optuna.pruners.NopPruner(),
        )  # fmt: skip
    except Exception as error:  # of whatever database, driver or file stands behind it
        found = f"{type(error).__name__}: {short(error, 200)}"
        raise UsageError(f"`storage` {where}", "a journal or a database of studies", found, "name another") from error
    begun, asked = study.user_attrs.get("asked"), search.facts()
    if begun is None:
        study.set_user_attr("asked", asked)
    elif begun != asked:
        what, before, now = difference(begun, asked)
        expected, remedy = f"{what} {before}, as it was begun", "name another study for this search"
        raise UsageError(f"`study` {name}", expected, str(now), remedy)
    return study


def run_trials(study, search: Search, trials: int, folder: Path, remark: Callable = quiet) -> None:
    """Goes on until the study has so many trials that came to an end; the last ones may be those of others here."""
    take_over(study, remark)
    while (left := trials - len(ended(study))) > 0:
        if len(others(study)) >= left:
            time.sleep(1)
            continue
        trial = study.ask()
        trial.set_user_attr("process", here())
        chosen = chosen_by(trial, search.space)
        shown = ", ".join(f"{name} {value}" for name, value in chosen.items())
        remark(f"trial {trial.number}: {shown}")
        wait_for_twin(study, trial, search.space)
        try:
            student = search.trained(chosen)
        except UsageError as error:  # each is right alone
            value, why = None, f"cannot be: {error}"
        else:
            value, why = attempt(trial, student, folder)
        if value is None:
            study.tell(trial, state=state("PRUNED"))
        else:
            study.tell(trial, value)
            why = why or f"accuracy {100 * value:.2f} %"
        remark(f"trial {trial.number}: {why}")


def attempt(trial, student: jobs.Student, folder: Path) -> tuple[float | None, str]:
    """The accuracy that a trial came to; None, and why it was given up."""
    place = jobs.folder_of(student, folder)
    trial.set_user_attr("folder", str(place))
    run = Trial(trial, place, student.facts())
    try:
        if finished(place) is None:
            student.train(run)
        else:
            run.replay()
    except Pruned as pruned:
        return None, str(pruned)
    except KdcacheError as error:  # a loss that is lost is worse than anything; what else goes wrong says nothing of it
        if error.place != "training":
            raise
        trial.report(0.0, student.settings.epochs)
        return None, f"failed: {error}"
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        return None, "failed: out of memory"
    facts = finished(place)
    assert facts is not None
    return facts["top1"], ""


class Pruned(Exception):
    """A trial that is behind the others."""


class Trial(Run):
    """A run that says how it goes, and ends when it is behind."""

    def __init__(self, trial, folder: Path, facts: dict):
        super().__init__(folder, facts, resume=True)
        self.trial = trial

    def log(self, record: dict) -> None:
        super().log(record)
        self.tell(record)
        last = record["epoch"] == self.facts["settings"]["epochs"]
        if "top1" in record and not last and self.trial.should_prune():
            raise Pruned(f"given up after epoch {record['epoch']}, accuracy {100 * record['top1']:.2f} %")

    def replay(self) -> None:
        """Says what was measured when the same was tried before."""
        for record in read_metrics(self.folder):
            self.tell(record)

    def tell(self, record: dict) -> None:
        if "top1" in record:
            self.trial.report(record["top1"], record["epoch"])


def study_folder(root: Path | str, name: str) -> Path:
    """Where a study and its trials lie."""
    return folder_name(root, "tune", name)


def here() -> str:
    """This process: machine, number, and since when it has that number."""
    return f"{socket.gethostname()}:{os.getpid()}:{since(os.getpid())}"


def since(process: int) -> str:
    """The start of the machine and that of the process; nothing where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""


def take_over(study, remark: Callable) -> None:
    """Trials of processes of this machine that are gone are tried again; each goes on in its run."""
    for trial in study.get_trials(deepcopy=False, states=(state("RUNNING"),)):
        if is_of_here(trial) and not is_worked_at(trial):
            remark(f"trial {trial.number}: its process is gone; it is tried again")
            study.tell(trial.number, state=state("FAIL"))
            study.enqueue_trial(trial.params)


def chosen_by(trial, space: spaces.Space) -> dict:
    """What a trial tries, rounded as it is written."""
    return {name: one.suggested(trial, name) for name, one in space.items()}


def wait_for_twin(study, trial, space: spaces.Space) -> None:
    """As long as an earlier trial of a process beside this one trains the same: then its result is this one's, too."""
    mine = chosen_by(trial, space)
    while any(
        other.number < trial.number and other.params.keys() == trial.params.keys() and chosen_by(other, space) == mine
        for other in others(study)
    ):
        time.sleep(1)


def others(study) -> list:
    """The trials at which other processes of this machine are."""
    running = study.get_trials(deepcopy=False, states=(state("RUNNING"),))
    return [trial for trial in running if is_of_here(trial) and is_worked_at(trial)]


def is_of_here(trial) -> bool:
    """Whether a process of this machine began it."""
    return trial.user_attrs.get("process", "").partition(":")[0] == socket.gethostname()


def is_worked_at(trial) -> bool:
    """Whether the process that began it is there, and is not this one: another may have its number by now."""
    number, _, started = trial.user_attrs["process"].partition(":")[2].partition(":")
    process = int(number)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return process != os.getpid() and started in ("", since(process))


def state(name: str):
    from optuna.trial import TrialState

    return TrialState[name]


def ended(study) -> list:
    """Its trials that came to a result, or were given up."""
    return study.get_trials(deepcopy=False, states=(state("COMPLETE"), state("PRUNED")))


def summary(study, search: Search, most: int = 5) -> dict:
    """The best trials, how many there were, and what mattered."""
    every = ended(study)
    complete = sorted((t for t in every if t.state == state("COMPLETE")), key=lambda t: (-t.value, t.number))
    if not complete:
        raise KdcacheError(f"study {study.study_name}", "a trial that came to its end", "none", "try a smaller `lr`")
    tried = [chosen(trial, search) for trial in complete[:most]]
    best = [
        {"trial": trial.number, "top1": trial.value, **names, "folder": trial.user_attrs["folder"]}
        for trial, names in zip(complete, tried, strict=False)
    ]
    method, student, settings = spaces.applied(tried[0], search.method, search.student, search.settings)
    return {
        "study": study.study_name, "trials": len(every), "pruned": len(every) - len(complete),
        "judged_on": {"rows": len(search.part.held_out), "of": len(search.data.train)},
        "best": best, "importance": importance(study, complete),
        "command": {"student": student, "method": method, "settings": settings.changed(), "mix": search.mix},
    }  # fmt: skip


def chosen(trial, search: Search) -> dict:
    """What was tried in a trial, as its training had it."""
    from optuna.trial import FixedTrial

    return {name: one.suggested(FixedTrial(trial.params), name) for name, one in search.space.items()}


def importance(study, complete: list) -> dict[str, float]:
    """How much of the differences in accuracy goes with each name; nothing where trials are too few or too alike."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(complete) < AT_FIRST or len({trial.value for trial in complete}) < 2:
        return {}
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name: round(float(value), 4) for name, value in found.items()}
