"""The second wave of logit methods, with their terms as the formulas have them."""

import reference_logits as ref
import reference_relation as first
import torch.nn.functional as F

MINE = ["dist", "nkd", "wsld", "ttm", "bkd"]


def dkd_std(s, t, y):
    tckd, nckd = first.decoupled(ref.standardised(s["logits"]), ref.standardised(t["logits"]), y, 2.0)
    return {"tckd": 9 * tckd, "nckd": 72 * nckd}


def st_std(s, t, y):
    return {"st": 9 * first.soft_target(ref.standardised(s["logits"]), ref.standardised(t["logits"]), 2.0)}


def dist(T):
    def terms(s, t, y):
        rows, classes = ref.correlations(s["logits"], t["logits"], T)
        return {"dist.inter": 2 * T * T * rows, "dist.intra": 2 * T * T * classes}

    return terms


def nkd(T, gamma):
    def terms(s, t, y):
        right, others = ref.normalised(s["logits"], t["logits"], y, T)
        return {"nkd.right": right, "nkd.others": gamma * others}

    return terms


def wsld(T, weight):
    return lambda s, t, y: {"wsld": weight * ref.weighted_soft_labels(s["logits"], t["logits"], y, T)}


def ttm(name, weighted):
    return lambda s, t, y: {name: 45 * ref.transformed(s["logits"], t["logits"], 0.1, weighted)}


def bkd(s, t, y):
    right = ref.binary(s["logits"], F.one_hot(y, s["logits"].shape[1]))
    return {"bce": right, "bkd": ref.binary(s["logits"], t["logits"].softmax(1))}


EXPECTED = {  # text: (weight of the cross-entropy, terms)
    "st/std": (0.1, st_std),
    "dkd/std": (1.0, dkd_std),
    "dist": (1.0, dist(4.0)),
    "dist/imagenet": (1.0, dist(1.0)),
    "nkd": (1.0, nkd(1.0, 1.5)),
    "nkd/cifar": (1.0, nkd(3.0, 3.5)),
    "wsld": (1.0, wsld(2.0, 2.5)),
    "wsld/cifar": (1.0, wsld(4.0, 2.25)),
    "ttm": (1.0, ttm("ttm", False)),
    "ttm/weighted": (1.0, ttm("wttm", True)),
    "bkd": (0.0, bkd),
}
