"""The figures of docs/audit.md: label errors and blocks planted in real data, and how many of them an audit finds.

python tests/audit_figures.py                    # the digits, by classifiers and by networks; a minute
python tests/audit_figures.py logits.npy         # logits [rows, classes] of rows that are sorted by class
"""

import copy
import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.model_selection import cross_val_predict
from sklearn.svm import SVC
from test_audit import Answers, blocks_in, pixels_of, planted

from kdcache.audit import audit
from kdcache.batches import Loader, straight_plan
from kdcache.jobs import Data
from kdcache.methods import build
from kdcache.sources import open_source
from kdcache.teachers import no_teacher
from kdcache.train import Settings, fit

SIZES, OFFSETS = (20, 50, 200, 1000, 5000), (-50, -7, -1, 1, 2, 30, 150)


def errors(name: str, labels: np.ndarray, answering: Callable, shares=(0.02, 0.05, 0.15), seeds: int = 5) -> None:
    """A line for each share of wrong labels; `answering` gives logits [views, rows, classes] for labels and a seed."""
    for share in shares:
        hits, named, there, estimated = 0, 0, 0, 0.0
        for seed in range(seeds):
            wrong, rows = planted(labels, share, seed, int(labels.max()) + 1)
            found = audit(Answers(answering(wrong, seed), wrong))["label_errors"]
            suspects = {one["row"] for one in found["suspects"]}
            hits += len(suspects & {*rows.tolist()})
            named, there, estimated = named + len(suspects), there + len(rows), estimated + found["estimated"]
        found = f"precision {hits / max(1, named):.3f}  recall {hits / there:.3f}"
        print(
            f"{name:40} {100 * share:3.0f} %  {found}  estimated {estimated / there:.2f} of the true number", flush=True
        )


def blocks(name: str, labels: np.ndarray, answers: np.ndarray, trials: int = 40) -> None:
    """Of blocks shifted or shuffled at random places in a random order, beside 2 % of wrong labels."""
    order = np.random.default_rng(1).permutation(len(labels))
    labels, answers = labels[order], answers[order]
    found, named, inside, there = 0, 0, 0, 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        size, offset = int(rng.choice([size for size in SIZES if size < len(labels) / 3])), int(rng.choice(OFFSETS))
        start = int(rng.integers(200, len(labels) - size - 200))
        wrong, rows = planted(labels, 0.02, seed)[0], np.arange(start, start + size)
        wrong[rows] = labels[rows + offset] if seed % 2 else rng.permutation(labels[rows])
        alarms = blocks_in(wrong, answers, int(labels.max()) + 1)
        marked = {row for one in alarms for row in range(one["first"], one["last"] + 1)}
        found += bool(marked & {*rows.tolist()})
        named, inside, there = named + len(marked), inside + len(marked & {*rows.tolist()}), there + size
    text = f"{found} of {trials} found, rows: precision {inside / max(1, named):.3f}  recall {inside / there:.3f}"
    print(f"{name:40} blocks {text}", flush=True)


def digits() -> None:
    source = open_source("digits", "train")
    labels, pixels = source.labels, pixels_of(source)

    def classifiers(given: np.ndarray) -> np.ndarray:
        return cross_val_predict(SVC(C=10), pixels, given, cv=4, method="decision_function")[None]

    right = classifiers(labels)
    errors("held out, taught the right labels", labels, lambda wrong, seed: right)
    errors("held out, taught the wrong labels", labels, lambda wrong, seed: classifiers(wrong))
    errors("network that was trained on them", labels, trained, (0.05, 0.15), 2)
    blocks("held out, taught the right labels", labels, right[0].argmax(1))


def trained(labels: np.ndarray, seed: int, views: int = 5) -> np.ndarray:
    """What a network answers to five renderings of the images whose wrong labels it has learnt."""
    data = Data.open("digits", None)
    source = copy.copy(data.train)
    source.labels = labels
    network, settings = data.network("tiny-16", seed), Settings(epochs=12, lr=0.05, seed=seed)
    fit([network], build("none"), no_teacher, Loader(source, data.view, seed), 12, settings)
    loader, n = Loader(source, data.view, 99), len(source)
    with torch.no_grad():
        network.eval()
        every = [torch.cat([network(b.images) for b in loader.run(straight_plan(range(v * n, v * n + n), 256))])
                 for v in range(views)]  # fmt: skip
    return torch.stack(every).numpy()


def given(path: str) -> None:
    logits = np.load(path)
    labels = np.repeat(np.arange(logits.shape[1]), len(logits) // logits.shape[1])
    errors(path[-40:], labels, lambda wrong, seed: logits[None], seeds=2)
    blocks(path[-40:], labels, logits.argmax(1))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    given(sys.argv[1]) if len(sys.argv) > 1 else digits()
