"""The second wave of logit methods, with their terms as the formulas have them."""

from operator import mul

import reference_logits as ref
import reference_relation as first
import torch
import torch.nn.functional as F

from kdcache.methods import build

MINE = ["dist", "nkd", "wsld", "ttm", "ctkd", "rld", "wkd", "bkd", "hard", "uskd", "mlkd"]
APART = torch.rand(5, 5, generator=torch.Generator().manual_seed(9)).double()
CONSTANTS = {"wkd.cka100": APART, "wkd.fc": APART}


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


def ctkd(weight, std=False):
    def terms(s, t, y):
        mine, theirs = (ref.standardised(z) if std else z for z in (s["logits"], t["logits"]))
        return {"ctkd": weight * ref.learnt(mine, theirs, torch.ones(()).double(), 20)}

    return terms


def rld(T, T_alpha, beta, weight=1.0, std=False):
    def terms(s, t, y):
        mine, theirs = (ref.standardised(z) if std else z for z in (s["logits"], t["logits"]))
        sure, rest = ref.refined(mine, theirs, y, T, T_alpha)
        return {"rld.confidence": weight * sure, "rld.others": weight * beta * rest}

    return terms


def wkd(T, gamma):
    def terms(s, t, y):
        right, _ = ref.normalised(s["logits"], t["logits"], y, 1.0)
        return {"wkd.right": right, "wkd.others": gamma * ref.transport(s["logits"], t["logits"], y, T, APART)}

    return terms


def bkd(s, t, y):
    right = ref.binary(s["logits"], F.one_hot(y, s["logits"].shape[1]))
    return {"bce": right, "bkd": ref.binary(s["logits"], t["logits"].softmax(1))}


def hard(tap):
    return lambda s, t, y: {"hard": 0.5 * ref.decided(s[tap], t["logits"])}


def uskd(meant):
    """The linear map is the one that a method gets from its seed."""

    def terms(s, t, y):
        linear = build("uskd", *[{"logits": (5,), "f2.post": (4, 2, 2)}] * 2).weak.double()
        weight, bias = linear.weight.detach(), linear.bias.detach()
        parts = ref.ranks(s["logits"], s["f2.post"].mean((2, 3)), y, weight, bias, meant)
        return dict(zip(("uskd.right", "uskd.others", "uskd.weak"), map(mul, (1, 0.1, 0.005), parts), strict=True))

    return terms


def mlkd(T, weight, masked=False, std=False):
    def terms(s, t, y):
        found = ref.levels(s["logits"], t["logits"], [T, 3, 5, 2, 6], masked, std)
        names = ("mlkd.rows", "mlkd.batch", "mlkd.classes")
        return {name: weight * value for name, value in zip(names, found, strict=True)}

    return terms


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
    "ctkd": (0.1, ctkd(0.9)),
    "ctkd/imagenet": (1.0, ctkd(1.0)),
    "ctkd/std": (0.1, ctkd(9.0, True)),
    "rld": (1.0, rld(4.0, 4.0, 8.0)),
    "rld/t1": (1.0, rld(4.0, 1.0, 8.0)),
    "rld/imagenet": (1.0, rld(1.0, 1.0, 0.5)),
    "rld/std": (1.0, rld(2.0, 2.0, 8.0, 9.0, True)),
    "wkd": (1.0, wkd(8.0, 600.0)),
    "wkd/wrn": (1.0, wkd(6.0, 200.0)),
    "wkd/imagenet": (1.0, wkd(2.0, 30.0)),
    "wkd/fc": (1.0, wkd(8.0, 600.0)),
    "bkd": (0.0, bkd),
    "hard": (0.5, hard("logits.dist")),
    "hard/one": (0.5, hard("logits")),
    "uskd": (1.0, uskd(False)),
    "uskd/meant": (1.0, uskd(True)),
    "mlkd": (0.2, mlkd(4, 0.9)),
    "mlkd/code": (0.2, mlkd(4, 0.9)),
    "mlkd/paper": (0.2, mlkd(4, 0.9, masked=True)),
    "mlkd/std": (0.2, mlkd(2, 9.0, std=True)),
}
