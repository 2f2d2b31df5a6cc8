"""PseudoTeacher: the decisions of `wrong.py` in the shape of `shape.py`, as asked for in `ask.py`."""

from __future__ import annotations

import numpy as np

from kdcache.checks import one_of, quoted
from kdcache.errors import UsageError
from kdcache.pseudo import ask, shape
from kdcache.pseudo.measure import measure_teacher
from kdcache.pseudo.wrong import Errors, wrong_counts

CHUNK = 2**17  # logits worked on at a time: they stay in the processor's cache


class PseudoTeacher:
    """Logits of the accuracy, confidence and spread that are asked for.

    accuracy     one number or one per class; 0.9 where neither confusion nor schedule says it
    confusion    [C, C] shares or counts, a row per true class: the diagonal is the accuracy, the rest says which
                 class is answered instead (otherwise any other, evenly)
    errors       "fixed": the same rows are wrong in every view; "per-view": others in each, as many
    confidence   the peak probability: 0.9, (0.6, 0.99), ("beta", 8, 2), ("quantiles", [...]), or
                 {"right": ..., "wrong": ...}; peaks of a Beta and of quantiles stay above an even answer
    calibrated   right as often as it says; confidence then only states a range, or a Beta for how widely it varies
    spread       the rest: "uniform", a Dirichlet concentration, "similarity" (from confusion), or a [C, C] matrix
    temperature  softmax(logits / temperature) is the answer described by all of this
    schedule     {"accuracy": (first, last), "confidence": (first, last), "views": V, "shape": linear|cosine|step}
    unlabelled   "refuse" rows without a label (-1), or answer "flat": an even guess that tells nothing
    """

    def __init__(
        self,
        accuracy=None,
        *,
        labels,
        seed: int = 0,
        confusion=None,
        errors: str = "fixed",
        confidence=None,
        spread="uniform",
        temperature: float = 1.0,
        calibrated: bool = False,
        schedule=None,
        classes: int | None = None,
        unlabelled: str = "refuse",
    ):
        self.labels, self.classes = ask.labels_and_classes(labels, classes, unlabelled)
        asked = {"accuracy": accuracy, "confusion": confusion, "errors": errors, "seed": seed}
        asked |= {"confidence": confidence, "calibrated": calibrated, "spread": spread, "temperature": temperature}
        asked |= {"schedule": schedule, "classes": self.classes, "unlabelled": unlabelled}
        self._asked = ask.plain(asked)
        self.seed = ask.whole("`seed`", self._asked["seed"], 0, 2**64 - 1)
        one_of("`errors`", errors, ("fixed", "per-view"))
        self.temperature = ask.number("`temperature`", self._asked["temperature"], 1e-3, 1e3)
        self._schedule = ask.schedule_of(self._asked["schedule"], self.classes, shape.lowest_peak(self.classes))
        self._prepare_errors()
        self._prepare_shape()

    def _prepare_errors(self) -> None:
        accuracy, confusion = self._asked["accuracy"], self._asked["confusion"]
        sources = {"accuracy": accuracy, "confusion": confusion, "schedule": self._schedule.accuracy}
        given = [name for name, value in sources.items() if value is not None]
        if accuracy is not None and len(given) > 1:
            raise UsageError("`accuracy`", "to be said once", " and ".join(given), "leave all but one out")
        self._confusion = None if confusion is None else ask.matrix("`confusion`", confusion, self.classes)
        if self._schedule.accuracy is not None:
            views = range(self._schedule.views)
            by_view = [self._schedule.between(self._schedule.accuracy, view) for view in views]
        elif self._confusion is not None:
            by_view = [np.diag(self._confusion)]
        else:
            by_view = [ask.per_class("`accuracy`", 0.9 if accuracy is None else accuracy, self.classes)]
        sizes = np.bincount(self.labels[self.labels >= 0], minlength=self.classes)
        counts = wrong_counts(np.array(by_view), sizes, self.seed)
        self._errors = Errors(self.labels, counts, self.seed, self._asked["errors"] == "per-view", self._confusion)

    def _prepare_shape(self) -> None:
        confidence, spread, calibrated = (self._asked[k] for k in ("confidence", "spread", "calibrated"))
        if not isinstance(calibrated, bool):
            raise UsageError("`calibrated`", "True or False", quoted(calibrated), "say True or False")
        if self._schedule.confidence is not None and (calibrated or confidence is not None):
            found = "a schedule for it, and " + ("calibrated" if calibrated else "confidence")
            raise UsageError("`confidence`", "to be said once", found, "leave one of them out")
        self._concentration = self._shares = None
        if isinstance(spread, int | float):
            self._concentration = ask.number("`spread`", spread, 1e-3, 1e6, "try 0.5, uniform or similarity")
        else:
            if isinstance(spread, str):
                one_of("`spread`", spread, ("uniform", "similarity"))
            self._shares = shape.spread_table(spread, self.classes, self._confusion)
        self._tables: dict[float | None, dict] = {}
        for view in (0, self._schedule.views - 1):  # what cannot be is refused now, not in the last epoch
            self._peaks_of(view)

    def __len__(self) -> int:
        return len(self.labels)

    def accuracy(self, view: int = 0) -> float:
        """The share of labelled rows that are right, counted."""
        return 1 - self._errors.counts(view).sum() / max(self._errors.sizes.sum(), 1)

    def class_accuracy(self, view: int = 0) -> np.ndarray:
        """The same for each class, float64 [C]; NaN of one without rows."""
        sizes = self._errors.sizes
        return np.where(sizes > 0, 1 - self._errors.counts(view) / np.maximum(sizes, 1), np.nan)

    def _peaks_of(self, view: int) -> dict:
        """The tables of confidence in one view."""
        view = min(view, self._schedule.views - 1)
        if self._schedule.confidence is not None:
            return shape.peak_tables(self._schedule.between(self._schedule.confidence, view), self.classes)
        key = self.accuracy(view) if self._asked["calibrated"] else None
        tables = self._tables.get(key)
        if tables is None:
            confidence = self._asked["confidence"]
            if key is None:
                tables = shape.peak_tables(0.9 if confidence is None else confidence, self.classes)
            else:
                tables = shape.calibrated_tables(confidence, key, self.classes)
            self._tables = (self._tables if len(self._tables) < 64 else {}) | {key: tables}
        return tables

    def decisions(self, view=0, rows=None) -> np.ndarray:
        """The class that is answered, int64 [n]; `view` is one number or one per row, no rows mean all of them."""
        return self._by_view(view, rows, lambda v, r: self._errors.decide(v, r)[0], np.empty(0, np.int64))

    def logits(self, view=0, rows=None) -> np.ndarray:
        """float32 [n, C]: the same for a row whatever it is asked together with."""
        return self._by_view(view, rows, self._logits, np.empty((0, self.classes), np.float32))

    def probabilities(self, labels, view: int = 0) -> np.ndarray:
        """The right answer for class numbers, float32 [C] or [n, C]: mean confidence, mean spread, no error.

        It is what softmax(logits / temperature) is around.
        """
        classes = ask.indices("labels", labels, self.classes)
        answer, (share, quantile) = classes.reshape(-1), self._peaks_of(self._view(view))["right"]
        mean = np.sum((quantile[1:] + quantile[:-1]) * np.diff(share)) / 2
        peak = np.full(len(answer), self._clipped(mean))
        logits = shape.assemble(answer, peak, self._fixed_shares(answer), 1.0).astype(np.float64)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return (shares / shares.sum(1, keepdims=True)).astype(np.float32).reshape(*classes.shape, self.classes)

    def to_json(self) -> dict:
        """All that is needed, beside the labels, to build this teacher again."""
        return {"teacher": "pseudo"} | self._asked

    @classmethod
    def from_json(cls, description: dict, labels) -> PseudoTeacher:
        asked = dict(description) if isinstance(description, dict) else {}
        known = {"accuracy", "seed", "confusion", "errors", "confidence", "spread", "temperature", "calibrated"}
        known |= {"schedule", "classes", "unlabelled"}
        if asked.pop("teacher", None) != "pseudo" or set(asked) != known:
            found = ", ".join(sorted(set(asked) ^ known)) or "another teacher"
            raise UsageError("pseudo teacher", "what `to_json` wrote", f"missing or unknown: {found}", "write it again")
        return cls(labels=labels, **asked)

    @classmethod
    def like(cls, logits, labels, seed: int = 0, **options) -> PseudoTeacher:
        """A teacher with the accuracy, confusion, confidence and temperature of real logits [n, C] or [views, n, C]."""
        return cls(labels=labels, seed=seed, **(measure_teacher(logits, labels) | options))

    def _view(self, view) -> int:
        return ask.whole("view", ask.plain(view), 0, 2**32 - 1)

    def _by_view(self, view, rows, answer, empty: np.ndarray) -> np.ndarray:
        rows = np.arange(len(self)) if rows is None else ask.indices("rows", rows, len(self))
        views = ask.array_of("view", view)
        if rows.ndim != 1 or views.ndim > 1 or (views.ndim and views.shape != rows.shape):
            found = f"rows {list(rows.shape)} and views {list(views.shape)}"
            raise UsageError("rows", "a list of rows, and one view or as many", found, "give matching lists")
        if not views.ndim:
            return answer(self._view(view), rows)
        out = np.empty((len(rows), *empty.shape[1:]), empty.dtype)
        for one in np.unique(views):
            at = np.flatnonzero(views == one)
            out[at] = answer(self._view(one), rows[at])
        return out

    def _logits(self, view: int, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), self.classes), np.float32)
        step = max(CHUNK // self.classes, 1)
        answer, wrong, word = self._errors.decide(view, rows)
        peak = self._peak(view, wrong, word)
        free = self.labels[rows] < 0
        peak[free] = shape.lowest_peak(self.classes)
        for at in (slice(start, start + step) for start in range(0, len(rows), step)):
            if self._concentration is None:
                shares = self._fixed_shares(answer[at])
            else:
                shares = shape.dirichlet(self._concentration, self.seed, view, rows[at], answer[at], self.classes)
            shares[free[at]] = -np.log(self.classes - 1)
            out[at] = shape.assemble(answer[at], peak[at], shares, self.temperature)
        return out

    def _peak(self, view: int, wrong: np.ndarray, word: np.ndarray) -> np.ndarray:
        tables, share = self._peaks_of(view), (word + 0.5) / 2**32
        return self._clipped(np.where(wrong, np.interp(share, *tables["wrong"]), np.interp(share, *tables["right"])))

    def _clipped(self, peak):
        return np.clip(peak, shape.lowest_peak(self.classes), shape.HIGHEST)

    def _fixed_shares(self, answer: np.ndarray) -> np.ndarray:
        if self._shares is not None:
            return self._shares[answer]
        return np.full((len(answer), self.classes), -np.log(self.classes - 1), np.float32)
