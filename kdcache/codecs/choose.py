"""What each codec costs and what it gets wrong, measured on the user's own logits; and the choice of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from kdcache.codecs import CODECS, F16, F32, Codec, Int8
from kdcache.codecs.base import sample
from kdcache.errors import UsageError

Limits: TypeAlias = Mapping[float, float]
"""The mean KL that is allowed at each temperature."""

LIMITS: Limits = {1: 1e-5, 4: 1e-3}
LARGEST_ERROR = 0.01  # of embeddings, as `measure_values` has it
TEMPERATURES = (1, 2, 4, 10)
CHUNK = 2**22  # values at once: 32 MB in f64


def kl_rows(truth: Tensor, answer: Tensor, temperature: float) -> Tensor:
    """KL(truth || answer) of each row's softmax, in f64."""
    p = torch.log_softmax(truth.double() / temperature, -1)
    q = torch.log_softmax(answer.double() / temperature, -1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def measure(codec: Codec, logits: Tensor, temperatures=TEMPERATURES) -> dict:
    """Bytes a row, mean and worst KL at each temperature, rows whose top-1 changed, rows beyond the fitted range."""
    kl: dict[float, list[Tensor]] = {temperature: [] for temperature in temperatures}
    flips = clipped = 0
    for part, answer in _read_back(codec, logits):
        for temperature, rows in kl.items():
            rows.append(kl_rows(part, answer, temperature).flatten())
        flips += int((part.argmax(-1) != answer.argmax(-1)).sum())
        clipped += int(codec.clipped(part).sum())
    errors = {temperature: torch.cat(rows) for temperature, rows in kl.items()}
    return {
        "bytes": codec.size,
        "kl": {t: {"mean": float(rows.mean()), "worst": float(rows.max())} for t, rows in errors.items()},
        "flips": flips,
        "clipped": clipped,
    }


def measure_values(codec: Codec, values: Tensor) -> dict:
    """Bytes a row, and the error as a share of what tells rows apart: both are roots of mean squares.

    What tells rows apart is their difference from the mean row. A share of 1 is all that there is.
    """
    error = spread = 0.0
    mean = values.double().mean(0)
    for part, answer in _read_back(codec, values):
        error += float((answer.double() - part.double()).square().sum())
        spread += float((part.double() - mean).square().sum())
    return {"bytes": codec.size, "error": min(1.0, (error / spread) ** 0.5 if spread else 1.0) if error else 0.0}


def candidates(logits: Tensor) -> list[Codec]:
    """Every codec, fitted to these logits; several of those that have settings."""
    return [codec for kind in CODECS.values() for codec in kind.candidates(logits)]


def auto(
    logits: Tensor, max_kl: Limits = LIMITS, shift_matters: bool = True, tail_matters: bool = False
) -> tuple[Codec, list[dict]]:
    """The smallest record that stays within every limit, and what was measured, smallest first.

    A row of the table says why its codec was not taken, in `refused`, which is empty where nothing speaks
    against it. Where raw logits matter, neither a lost shift nor classes that share one level will do; where the tail
    matters, the latter will not.
    """
    sample("auto", logits)
    table = []
    for codec in candidates(logits):
        row: dict = {"codec": codec.label, "keeps_shift": codec.keeps_shift}
        try:
            row |= measure(codec, logits, tuple(max_kl))
            refused = _refusal(codec, row["kl"], max_kl, shift_matters, tail_matters)
        except UsageError as error:  # values beyond its range
            row, refused = row | {"bytes": codec.size}, f"{error.found} where it takes {error.expected}"
        table.append((codec, row | {"refused": refused}))
    table.sort(key=lambda pair: (pair[1]["bytes"], *(error["mean"] for error in pair[1].get("kl", {}).values())))
    taken = [codec for codec, row in table if not row["refused"]]
    return (taken or [F32.fit(logits)])[0], [row for _, row in table]


def auto_values(values: Tensor) -> tuple[Codec, list[dict]]:
    """As `auto`, for values that are no logits: the smallest of those that keep what tells rows apart."""
    table = []
    for kind in (Int8, F16, F32):
        codec = kind.fit(values)
        row: dict = {"codec": codec.label, "bytes": codec.size}
        try:
            row |= measure_values(codec, values)
            over = row["error"] > LARGEST_ERROR
            refused = f"its error is {row['error']:.3g} > {LARGEST_ERROR:g} of what tells rows apart" if over else ""
        except UsageError as error:
            refused = f"{error.found} where it takes {error.expected}"
        table.append((codec, row | {"refused": refused}))
    taken = [codec for codec, row in table if not row["refused"]]
    return taken[0], [row for _, row in table]


def _refusal(codec: Codec, kl: dict, max_kl: Limits, shift_matters: bool, tail_matters: bool) -> str:
    if shift_matters and not codec.keeps_shift:
        return "loses the level of a row's logits"
    if (shift_matters or tail_matters) and not codec.keeps_all:
        return "loses the single logits of some classes"
    over = [f"KL {kl[t]['mean']:.3g} > {limit:g} at T = {t:g}" for t, limit in max_kl.items() if kl[t]["mean"] > limit]
    return ", ".join(over)


def _read_back(codec: Codec, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The values and what comes back of them, a part at a time."""
    for part in sample(codec.name, values).split(max(1, CHUNK // codec.count)):
        yield part, codec.decode(codec.encode(part))
