"""Probable label errors by confident learning (Northcutt et al. 2021), over the stored answers."""

from __future__ import annotations

import numpy as np

from kdcache.audit.answers import Answered


def mislabelled(found: Answered, labels: np.ndarray) -> dict:
    """The suspects, the surest first, and about how many labels are wrong.

    A row is a suspect if another class than its label is as likely as it usually is for rows of that class, and the
    label is not the answer. The estimate scales these counts to all rows: many are sure of no class.
    """
    rows = np.flatnonzero((labels >= 0) & (found.confident >= 0))
    classes = int(max(labels.max(), found.confident.max())) + 1
    of_label = np.bincount(labels[labels >= 0], minlength=classes)
    counted = np.bincount(labels[rows], minlength=classes)
    wrong = np.bincount(labels[rows[found.confident[rows] != labels[rows]]], minlength=classes)
    estimated = float((wrong / np.maximum(counted, 1) * of_label).sum())
    suspects = rows[(found.confident[rows] != labels[rows]) & (found.answers[rows] != labels[rows])]
    margin = found.of_label[suspects] - found.of_answer[suspects]
    return {"estimated": estimated, "suspects": suspects[np.argsort(margin, kind="stable")]}
