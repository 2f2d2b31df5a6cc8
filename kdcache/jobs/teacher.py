"""Training teachers on labels alone."""

from __future__ import annotations

from kdcache.batches import Loader
from kdcache.checks import Range
from kdcache.jobs.data import Data
from kdcache.jobs.loading import Normalisation, teacher_folder
from kdcache.methods import build as build_method
from kdcache.models.elsewhere import PRETRAINED
from kdcache.models.network import check_output
from kdcache.runs import ROOT, Run
from kdcache.teachers import no_teacher
from kdcache.train import Settings, figures, fit, joined
from kdcache.types import quiet

SMOOTHING = Range(least=0, below=1, remedy="try 0.1")


def train_teacher(
    model: str, data: Data, settings: Settings, *, label_smoothing: float = 0.0, root=ROOT, out: str | None = None,
    resume: bool = False, restart: bool = False, device: str = "cpu", workers: int = 0, progress=quiet, remark=quiet,
    normalisation: Normalisation | None = None, taps: str | None = None,
) -> dict:  # fmt: skip
    """Trains a network on labels alone, and saves it where `dump` looks first. `remark` gets a line per epoch."""
    label_smoothing = SMOOTHING.checked("`label_smoothing`", label_smoothing)
    method = build_method(f"ls:{label_smoothing}" if label_smoothing else "none")
    facts = {
        "kind": "teacher", "model": model, "data": data.train.identity(), "view": data.view.to_json(),
        "label_smoothing": label_smoothing, "taps": taps, "settings": settings.to_json(),
    }  # fmt: skip
    if normalisation:
        facts["normalisation"] = normalisation
    run = Run(out or teacher_folder(root, data.train.spec, model), facts, resume, restart)
    data.require_labels("`data`", "a training on labels alone")
    network = data.network(model, settings.seed, normalisation, taps, init_from=settings.init_from)
    if network.begun or network.layout:
        remark(network.begun or f"{model}: begins with fresh weights; `init_from` {PRETRAINED} takes its library's")
    check_output(network, data.image)
    loader = Loader(data.train, data.view, settings.seed, device, workers)
    with joined(device) as team:
        evaluation = data.evaluation(None, device, workers, settings.dtype, team)
        shown = (loader, settings.epochs, settings, evaluation, run, progress, remark)
        records = fit([network], method, no_teacher, *shown, team)
    return result(run, records)


def result(run: Run | None, records: list[dict]) -> dict:
    """What it came to, and where it lies."""
    where = {"weights": str(run.path("last.safetensors")), "run": str(run.folder)} if run else {}
    return figures(records) | where
