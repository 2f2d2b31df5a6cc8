"""Networks that are only tensors, and every feature method on them with its terms as the formulas have them."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import reference_feature as ref
import torch
from torch import nn

from kdcache.methods.attention import Attention as AT
from kdcache.methods.boundary import ActivationBoundaries as AB
from kdcache.methods.boundary import Overhaul as CO
from kdcache.methods.factor import FactorTransfer as FT
from kdcache.methods.fsp import FSP
from kdcache.methods.hints import VID, FitNet
from kdcache.methods.similarity import NeuronSelectivity as NST
from kdcache.methods.similarity import SimilarityPreserving as SP
from kdcache.types import Batch

CLASSES = 5
PLAIN = {"f0": (3, 6, 6), "f1": (3, 6, 6), "f2": (4, 4, 4), "f3": (6, 2, 2)}
WIDE = {"f0": (5, 6, 6), "f1": (5, 6, 6), "f2": (6, 4, 4), "f3": (8, 2, 2)}
LARGE = {"f0": (3, 12, 12), "f1": (3, 12, 12), "f2": (4, 8, 8), "f3": (6, 4, 4)}
TALL = {"f0": (3, 7, 5), "f1": (3, 7, 5), "f2": (4, 5, 3), "f3": (6, 3, 2)}


def shapes(stages):
    """Row shapes as a network tells them."""
    taps = {f"{stage}.{version}": shape for stage, shape in stages.items() for version in ("raw", "pre", "post")}
    return {"logits": (CLASSES,), **taps}


def look(stages, n, seed, dtype=torch.float64, grad=False):
    """What a network might show; each version of a tap has values of its own, so that none passes for another."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes(stages).items():
        values = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
        tensors[name] = (values.abs() if name.endswith("post") else values).to(dtype).requires_grad_(grad)
    return tensors


def batch_of(n, epoch=None):
    rows = torch.arange(n)
    return Batch(torch.zeros(n, 3, 8, 8, dtype=torch.uint8), rows % CLASSES, rows.numpy(), n, epoch)


def average(*parts):
    return sum(parts) / len(parts)


@dataclass
class Teacher:
    """Enough of a network for `prepare`."""

    stages: dict
    gammas: dict = field(default_factory=dict)

    def bn_before_relu(self, tap):
        channels = self.stages[tap.split(".")[0]][0]
        norm = nn.BatchNorm2d(channels)
        generator = torch.Generator().manual_seed(channels)
        with torch.no_grad():
            norm.weight.copy_(torch.randn(channels, generator=generator))
            norm.bias.copy_(torch.randn(channels, generator=generator))
        return norm

    def looks(self, n=4, batches=2):
        return lambda: (look(self.stages, n, 100 + i, torch.float32) for i in range(batches))


@dataclass
class Case:
    """A method as it is asked for, two networks, and its terms as the formulas have them."""

    method: type
    reference: object  # (method, student's look, teacher's look) -> terms
    variant: str = ""
    student: dict = field(default_factory=lambda: PLAIN)
    teacher: dict = field(default_factory=lambda: PLAIN)
    stage: str = "main"
    options: dict = field(default_factory=dict)

    @property
    def beyond_texts(self) -> bool:
        """Whether a text such as `at/zoo`, for two networks alike, says less."""
        return bool(self.options) or self.student is not PLAIN or self.teacher is not PLAIN

    def build(self, dtype=torch.float64):
        torch.manual_seed(0)  # connectors draw their weights
        options = {**(self.method.variants[self.variant] if self.variant else {}), **self.options}
        method = self.method(shapes(self.student), shapes(self.teacher), **options)
        teacher = Teacher(self.teacher)
        method.use(method.prepare(teacher, teacher.looks()))
        return method.to(dtype)

    def looks(self, n, dtype=torch.float64):
        return look(self.student, n, 1, dtype, grad=True), look(self.teacher, n, 2, dtype)


def at(version="raw", size=None, squared=True):
    def stages(s, t):
        for stage in ("f1", "f2", "f3"):
            a, b = s[f"{stage}.{version}"], t[f"{stage}.{version}"]
            grid = size or b.shape[-2:]
            yield ref.at_stage(ref.pool(a, grid), ref.pool(b, grid), squared)

    return stages


def at_sum(**how):
    return lambda m, s, t: {"at": 1000 * sum(at(**how)(s, t))}


def hint(kind, weight=100, relu=True):
    return lambda m, s, t: {"fitnet": weight * ref.mse(ref.regress(m.connector, s["f2.raw"], kind, relu), t["f2.raw"])}


def fitnet_zoo(m, s, t):
    return {"fitnet": 0.1 * ref.mse(s["f3.post"], t["f3.post"])}


def fitnet_kd(m, s, t):
    return {"fitnet.kd": ref.soft_targets(s["logits"], t["logits"], 3)}


def vid_parts(m, s, t, eps):
    for g, tap in zip(m.gaussians, ("f1.raw", "f2.raw", "f3.raw"), strict=True):
        size = [min(a, b) for a, b in zip(s[tap].shape[-2:], t[tap].shape[-2:], strict=True)]
        yield ref.vid_stage(g, ref.pool(s[tap], size), ref.pool(t[tap], size), eps)


def vid(m, s, t):
    return {"vid": sum(vid_parts(m, s, t, 1e-5))}


def vid_zoo(m, s, t):
    return {"vid": average(*vid_parts(m, s, t, 1e-6))}


def frozen(method):
    return [getattr(method, f"paraphraser{i}") for i in range(6)]


def ft(weight):
    def terms(m, s, t):
        mine = ref.encoder(s["f3.post"], list(m.translator.parameters()))
        theirs = ref.encoder(t["f3.post"], frozen(m))
        return {"ft": weight * ref.mean_abs(ref.factor(mine), ref.factor(theirs))}

    return terms


def ft_rep(m, s, t):
    theirs = ref.attention(ref.encoder(t["f3.raw"], frozen(m)))
    mine = ref.pool(ref.encoder_with_norm(s["f3.raw"], m.translator), theirs.shape[-2:])
    return {"ft": 200 * ref.mean_abs(ref.attention(mine), theirs)}


def ab(connect=lambda connector, x: x):
    def terms(m, s, t):
        total = 0.0
        for connector, tap, weight in zip(m.connectors, ("f1.pre", "f2.pre", "f3.pre"), (0.25, 0.5, 1), strict=True):
            total = total + weight * ref.ab_stage(connect(connector, s[tap]), t[tap], 1)
        return {"ab": 3 / 1000 * total / len(t["logits"])}

    return terms


def ab_regressor(connector, x):
    return x if isinstance(connector, nn.Identity) else ref.regress(connector, x, "half", relu=False)


def ab_zoo(m, s, t):
    return {"ab": 10 * average(*(ref.ab_stage(s[tap], t[tap], 2) / t[tap].numel() for tap in m.taps))}


def ab_kl(m, s, t):
    return {"ab.kl": ref.soft_targets(s["logits"], t["logits"], 3)}


def co(scale):
    def terms(m, s, t):
        total = 0.0
        for connector, tap, weight in zip(m.connectors, m.taps, (0.25, 0.5, 1), strict=True):
            margin = getattr(m, "margin_" + tap[:2]).flatten()
            total = total + weight * ref.co_stage(ref.widened(connector, s[tap]), t[tap], margin)
        return {"co": scale * total / len(t["logits"])}

    return terms


def flows(s, version, first, how):
    stages = ("f0", "f1", "f2", "f3")[first:]
    return [ref.flow(s[f"{a}.{version}"], s[f"{b}.{version}"], how) for a, b in pairwise(stages)]


def fsp(scale, version="raw", first=0, how="avg"):
    def terms(m, s, t):
        pairs = zip(flows(s, version, first, how), flows(t, version, first, how), strict=True)
        return {"fsp": scale * sum(((a - b) ** 2).sum() / a.numel() for a, b in pairs)}

    return terms


def fsp_tf1(m, s, t):
    pairs = zip(flows(s, "post", 1, "max"), flows(t, "post", 1, "max"), strict=True)
    return {"fsp": 1e-3 * sum(((a - b) ** 2).sum() / 2 / len(a) for a, b in pairs)}


def fsp_tf2(m, s, t):
    mine = {tap: ref.widened(m.connectors[tap.replace(".", "_")], s[tap]) for tap in m.taps}
    rows = len(t["logits"])
    pairs = zip(flows(mine, "pre", 1, "max"), flows(t, "pre", 1, "max"), strict=True)
    return {"fsp": sum(((a / rows - b / rows) ** 2).sum() for a, b in pairs)}


def fitnet_bare(m, s, t):
    return {"fitnet": ref.mse(ref.conv(s["f2.raw"], m.connector.weight), t["f2.raw"])}


def sp(m, s, t):
    return {"sp": 3000 * ref.sp(s["f3.raw"], t["f3.raw"])}


def nst(*stages):
    def terms(m, s, t):
        total = 0.0
        for tap in (f"{stage}.raw" for stage in stages):
            size = [min(a, b) for a, b in zip(s[tap].shape[-2:], t[tap].shape[-2:], strict=True)]
            total = total + ref.nst_stage(ref.pool(s[tap], size), ref.pool(t[tap], size))
        return {"nst": 50 * total}

    return terms


def nothing(m, s, t):
    return {}


CASES = {
    "at": Case(AT, at_sum()),
    "at wide": Case(AT, at_sum(), teacher=WIDE),
    "at large student": Case(AT, at_sum(), student=LARGE),
    "at odd student": Case(AT, at_sum(), student=TALL, teacher=PLAIN | {"f1": (3, 4, 3), "f2": (4, 3, 2)}),
    "at grid": Case(AT, at_sum(size=(2, 2)), teacher=LARGE, options={"grid": (2, 2)}),
    "at post": Case(AT, at_sum(version="post"), "post"),
    "at zoo": Case(AT, lambda m, s, t: {"at": 1000 * average(*at()(s, t))}, "zoo"),
    "at paper": Case(AT, at_sum(squared=False), "paper"),
    "fitnet": Case(FitNet, hint("same"), teacher=WIDE),
    "fitnet large student": Case(FitNet, hint("half"), student=LARGE, teacher=WIDE),
    "fitnet large teacher": Case(FitNet, hint("twice"), teacher=LARGE),
    "fitnet odd student": Case(FitNet, hint("same"), student=PLAIN | {"f2": (4, 5, 6)}, teacher=WIDE),
    "fitnet signed": Case(FitNet, hint("same", relu=False), options={"relu": False}),
    "fitnet zoo": Case(FitNet, fitnet_zoo, "zoo"),
    "fitnet bare": Case(FitNet, fitnet_bare, "bare", teacher=WIDE),
    "fitnet paper init": Case(FitNet, hint("same"), "paper", stage="init"),
    "fitnet paper": Case(FitNet, fitnet_kd, "paper"),
    "vid": Case(VID, vid, teacher=WIDE),
    "vid large student": Case(VID, vid, student=LARGE),
    "vid large teacher": Case(VID, vid, teacher=LARGE),
    "vid zoo": Case(VID, vid_zoo, "zoo"),
    "ft": Case(FT, ft(500)),
    "ft wide": Case(FT, ft(500), teacher=WIDE, options={"k": 0.25}),
    "ft zoo": Case(FT, ft(200), "zoo", options={"passes": 1}),
    "ft rep": Case(FT, ft_rep, "rep", options={"passes": 1}),
    "ft rep large student": Case(FT, ft_rep, "rep", student=LARGE, options={"passes": 1}),
    "ab init": Case(AB, ab(), stage="init"),
    "ab init wide": Case(AB, ab(ref.widened), teacher=WIDE, stage="init"),
    "ab": Case(AB, ab_kl),
    "ab rep init": Case(AB, ab(ab_regressor), "rep", student=PLAIN | {"f3": (5, 4, 4)}, stage="init"),
    "ab rep": Case(AB, nothing, "rep"),
    "ab zoo init": Case(AB, ab_zoo, "zoo", stage="init"),
    "ab zoo": Case(AB, nothing, "zoo"),
    "co": Case(CO, co(1e-3)),
    "co wide": Case(CO, co(1e-3), teacher=WIDE),
    "co imagenet": Case(CO, co(1e-4), "imagenet"),
    "fsp init": Case(FSP, fsp(1), stage="init"),
    "fsp init large": Case(FSP, fsp(1), teacher=LARGE, stage="init"),
    "fsp init odd": Case(FSP, fsp(1), student=TALL, stage="init"),
    "fsp": Case(FSP, nothing),
    "fsp max init": Case(FSP, fsp(1, how="max"), "max", stage="init"),
    "fsp zoo init": Case(FSP, fsp(1 / 3), "zoo", stage="init"),
    "fsp tf1 init": Case(FSP, fsp_tf1, "tf1", stage="init"),
    "fsp tf2 init": Case(FSP, fsp_tf2, "tf2", teacher=WIDE, stage="init"),
    "fsp tf2": Case(FSP, nothing, "tf2", teacher=WIDE),
    "sp": Case(SP, sp, teacher=LARGE),
    "nst": Case(NST, nst("f1", "f2", "f3"), teacher=WIDE),
    "nst large student": Case(NST, nst("f1", "f2", "f3"), student=LARGE),
    "nst large teacher": Case(NST, nst("f1", "f2", "f3"), teacher=LARGE),
    "nst f3": Case(NST, nst("f3"), "f3"),
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def run(case, method, student, teacher, epoch=None):
    """The loss without its cross-entropy, and how far the gradients of all of it reach."""
    knowledge = method.project(teacher)
    terms = method.loss(student, knowledge, batch_of(len(teacher["logits"]), epoch), case.stage)
    terms.pop("ce", None)
    return terms, gradients(terms, student, method)


def gradients(terms, student, method):
    inputs = list(student.values()) + list(method.parameters())
    total = sum(terms.values(), torch.zeros((), dtype=inputs[0].dtype))
    if not total.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def assert_close(found, expected, tolerance):
    """Within a share of the largest value of all."""
    largest = max((e.abs().max().item() for e in expected), default=0.0)
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape
        assert (f.double() - e).abs().max().item() <= tolerance * largest
