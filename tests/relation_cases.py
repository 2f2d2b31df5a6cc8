"""Looks that are only random tensors, and every logit and relation method with its terms as the formulas have them."""

import logit_cases
import reference_relation as ref
import torch

from kdcache.methods import METHODS, build
from kdcache.methods.mhgd import folded, train
from kdcache.types import Batch

CLASSES, ROWS = 5, 4
STAGES = {"f1.post": (3, 3, 3), "f2.post": (4, 2, 2), "f3.post": (6, 2, 2)}  # h·w above, at and below C
SHAPES = {"logits": (CLASSES,), "emb": (6,), **STAGES, "logits.dist": (CLASSES,)}
TAPS = list(STAGES)
MINE = ["st", "logits", "dkd", "ls", "tfkd", "dml", "rkd", "kdsvd", "mhgd", *logit_cases.MINE]
ALL = [m + v for m in MINE for v in ("", *(f"/{variant}" for variant in METHODS[m].variants))]


def draw(seed, n=ROWS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    look = {k: torch.randn(n, *s, generator=generator, dtype=torch.float64) for k, s in SHAPES.items()}
    look["peers"] = torch.randn(n, 1, CLASSES, generator=generator, dtype=torch.float64)
    return {k: (v.abs() if k in STAGES else v).to(dtype) for k, v in look.items()}


def batch_of(n=ROWS, epoch=None, targets=None):
    rows = torch.arange(n)
    targets = rows % CLASSES if targets is None else torch.tensor(targets)
    return Batch(torch.zeros(n, 3, 8, 8, dtype=torch.uint8), targets, rows.numpy(), n, epoch)


def known(method, look):
    return {**method.project(look), "peers": look["peers"]}


def made(text, seed=3, dtype=torch.float64):
    """A method with its constants; few passes are enough."""
    method = build(text, SHAPES, SHAPES)
    if text == "mhgd":
        method.use({f"mhgd.{name}": value.detach() for name, value in folded(relations_of(seed)).items()})
    else:
        method.use(logit_cases.CONSTANTS)
    return method.to(dtype)


def relations_of(seed=3):
    """The attention of MHGD before its batch norms are folded."""
    method = METHODS["mhgd"]()
    rows = [method.project(draw(seed, 8)), method.project(draw(seed + 1, 8))]
    return train({name: torch.cat([r[name] for r in rows]).float() for name in rows[0]}, 2, 0).double()


def maps(look):
    return [look[tap] for tap in TAPS]


def peers(s, t, T=1.0):
    return ref.soft_target(s["logits"], t["peers"][:, 0], T, False)


def both_ways(s, t):
    return (peers(s, t) + ref.soft_target(t["peers"][:, 0], s["logits"], 1.0)) / 2


def dkd(beta):
    def terms(s, t, y):
        tckd, nckd = ref.decoupled(s["logits"], t["logits"], y, 4.0)
        return {"tckd": tckd, "nckd": beta * nckd}

    return terms


def rkd(distance, angle, student=False, teacher=False, diagonal=False):
    def terms(s, t, y):
        a = ref.unit_rows(s["emb"]) if student else s["emb"]
        b = ref.unit_rows(t["emb"]) if teacher else t["emb"]
        pairs, triplets = ref.relations(a, b, diagonal)
        return {"rkd.distance": distance * pairs, "rkd.angle": angle * triplets}

    return terms


def st(weight, T, squared=True):
    return lambda s, t, y: {"st": weight * ref.soft_target(s["logits"], t["logits"], T, squared)}


def squares(scale):
    return lambda s, t, y: {"logits": scale * sum((s["logits"] - t["logits"]).flatten() ** 2) / ROWS}


def smoothing(on_all):
    def terms(s, t, y):  # what is left when the base adds (1 - ε) CE
        return {"ls": ref.smoothed(s["logits"], y, 0.1, on_all) - 0.9 * ref.cross_entropy(s["logits"], y)}

    return terms


EXPECTED = logit_cases.EXPECTED | {  # text: (weight of the cross-entropy, terms)
    "st": (0.1, st(0.9, 4.0)),
    "st/at": (0.1, st(0.9, 4.0)),
    "st/watson21": (0.9, st(0.1, 6.0)),
    "st/zoo": (1.0, st(0.1, 4.0)),
    "st/tf1": (0.7, st(0.3, 4.0, False)),
    "st/tf2": (0.5, st(0.5, 5.0, False)),
    "st/ab": (0.0, st(1.0, 3.0, False)),
    "st/funmatch": (0.0, st(1.0, 1.0)),
    "logits": (1.0, squares(0.1 / CLASSES)),
    "logits/zoo": (1.0, squares(0.1 / CLASSES)),
    "logits/paper": (0.0, squares(0.5)),
    "logits/funmatch": (0.0, squares(1.0)),
    "dkd": (1.0, dkd(8)),
    "dkd/res": (1.0, dkd(2)),
    "dkd/wrn": (1.0, dkd(6)),
    "ls": (0.9, smoothing(True)),
    "ls/tfkd": (0.9, smoothing(False)),
    "tfkd": (0.9, lambda s, t, y: {"tfkd": 0.1 * ref.virtual_teacher(s["logits"], y, 20.0)}),
    "tfkd/self": (0.05, lambda s, t, y: {"tfkd": 47.5 * ref.soft_target(s["logits"], t["logits"], 6.0) / CLASSES}),
    "dml": (1.0, lambda s, t, y: {"dml": peers(s, t)}),
    "dml/tf1": (1.0, lambda s, t, y: {"dml": both_ways(s, t)}),
    "dml/tf2": (0.5, lambda s, t, y: {"dml": 0.5 * peers(s, t, 5.0)}),
    "rkd": (1.0, rkd(25, 50)),
    "rkd/author": (1.0, rkd(1, 2, teacher=True)),
    "rkd/tf1": (1.0, rkd(25, 50, True, True, diagonal=True)),
    "kdsvd": (1.0, lambda s, t, y: {"kdsvd": ref.kd_svd(maps(s), maps(t))}),
    "kdsvd/rep": (1.0, lambda s, t, y: {"kdsvd": ref.kd_svd(maps(s), maps(t)) / ROWS}),
    "kdsvd/eid": (1.0, lambda s, t, y: {"kdeid": ref.kd_svd(maps(s), maps(t))}),
    "mhgd": (1.0, lambda s, t, y: {"mhgd": ref.mhgd(relations_of(), maps(s), maps(t))}),
}
