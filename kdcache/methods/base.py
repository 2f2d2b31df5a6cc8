"""What every distillation method is: `project` on the teacher's side, `loss` on the student's."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.methods.checks import constant, labelled_batch, ordinary, require_one_batch
from kdcache.methods.masked import masked
from kdcache.types import Batch, Knowledge, Look, Shapes


class Method(nn.Module):
    """A paper, a formula. Leaves say which taps they look at, what is cached of them, and the terms of the loss.

    A leaf is never subclassed. Trainable parts of the student's side (connectors) are submodules: the trainer
    puts `method.parameters()` into the optimiser and leaves them out of the student's checkpoint.
    """

    paper = ""
    taps: tuple[str, ...] = ()
    """What both networks must show."""
    student_taps: tuple[str, ...] = ()
    """What the student alone must show beside them."""
    two_heads = False
    """Whether the student gets a second head, whose logits it shows as `logits.dist`."""
    norms: tuple[str, ...] = ()
    """Those of the teacher's taps of which it asks for the BatchNorm in front of the ReLU."""
    term = ""
    """The name of its term; a method of several says so in `weights`."""
    weight: float
    """What its term is multiplied by, where it has one of its own."""
    ce = 1.0
    """The weight of the cross-entropy beside this method's terms."""
    smoothing = 0.0
    """Label smoothing of the cross-entropy: the share of the label that all classes divide evenly, as torch's."""
    keeps_ce = False
    """Whether its formula stands with that weight alone: in a sum, only a `ce` that the text states is another."""
    shift_matters = False
    """Whether adding a constant to a row's logits changes the loss; codecs that lose it are refused if so."""
    tail_matters = False
    """Whether each class counts, however improbable; codecs that model some of them are refused if so."""
    batch_matters = False
    """Whether a row's part in the loss depends on the other rows of its batch: if not, a batch can be had in parts."""
    remembers = False
    """Whether it keeps something of the rows from step to step (`stepped`), and so has to be shown all of them."""
    codecs: Mapping[str, str] = {}
    """Knowledge that wants a codec of its own, such as `bits` for signs."""
    fades = False
    """Whether a term's weight falls in the course of the epochs, so that their number has to be known."""
    stated: Mapping[str, object] = {}
    """The options that a text has given it, those of its variant included."""
    variants: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    """Named sets of options: `at/zoo` is `METHODS["at"](**variants["zoo"])`."""
    init_share = 0.0
    """The share of the epochs that goes to an initialisation stage, in which `init_terms` alone are minimised."""
    clips_to_ce = False
    """Whether the gradient of some terms is clipped, variable by variable, to the norm of that of all other terms."""
    clipped: frozenset[str] = frozenset()
    """The names of the terms that are clipped so, as `loss` names them."""
    one_label = False
    """Whether the terms take an image to be of one class, so that they mean nothing for mixed ones."""
    needs_labels = False
    """Whether nothing is left of its terms for images without labels."""
    views = 1
    """How many views of each row a step shows; of several, a batch is one view of some rows after the other."""
    live_only = False
    """Whether what it reads is too large to keep: a cache of it is refused."""
    students = 1
    """How many networks learn together; with more than one, knowledge["peers"] is [n, students - 1, C]."""

    def __init__(self, student: Shapes | None = None, teacher: Shapes | None = None, *, ce: float | None = None):
        super().__init__()
        self.ce = type(self).ce if ce is None else ce

    def prepare(self, teacher: nn.Module, looks: Callable[[], Iterable[Look]]) -> dict[str, Tensor]:
        """Constants of the teacher, made once before a dump and stored in the cache.

        `looks()` is one pass over the images; each Look has their labels, too, as `targets`.
        """
        return {}

    def use(self, constants: Mapping[str, Tensor]) -> None:
        """Takes what `prepare` made, before the first `project` or `loss`."""

    def meet(self, labels: Tensor) -> None:
        """Takes the labels of all rows that will come, -1 where there is none, before the first `loss`."""

    def stepped(self) -> None:
        """After a batch, or a part of one, was learnt from: changes what is kept. A loss alone changes nothing."""

    def held(self, rows: int) -> int:
        """Bytes that it keeps from step to step of data of so many rows, in training."""
        return 0

    def project(self, look: Look) -> Knowledge:
        """Teacher's side, row by row: what gets cached."""
        return {tap: look[tap] for tap in self.taps}

    def stores(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Name and row shape of what `project` gives of a network whose taps have such shapes.

        >>> METHODS["st"]().stores({"logits": (10,), "emb": (64,)})
        {'logits': (10,)}
        """
        if missing := [tap for tap in self.taps if tap not in shapes]:
            expected, found = f"a teacher with taps {', '.join(self.taps)}", f"none called {', '.join(missing)}"
            raise UsageError("method", expected, found, "take another method, or name these taps")
        return {name: tuple(shape) for name, shape in self.projected(shapes).items()}

    def made_before(self) -> Sequence[str]:
        """The names of what `prepare` makes."""
        return ()

    def projected(self, shapes: Shapes) -> Shapes:
        """What `project` makes of shapes."""
        return {tap: shapes[tap] for tap in self.taps}

    def require_cacheable(self, shapes: Shapes, text: str) -> None:
        """Refuses what is too large to keep, with its bytes, for a teacher of such shapes."""
        if self.live_only:
            size = sum(2 * math.prod(shape) for shape in self.stores(shapes).values())
            found = f"{size:,} bytes of every sample-view in f16"
            raise UsageError(f"method {text}", "what a cache can hold", found, "train with a teacher and `live`")

    def smooth(self, label_smoothing: float) -> None:
        """Sets the label smoothing of its cross-entropy; refuses a loss that has none."""
        if label_smoothing and not self.ce:
            found, remedy = self.described(), "give it a weight, as with ce=0.1"
            raise UsageError("`label_smoothing`", "a loss with cross-entropy", found, remedy)
        self.smoothing = label_smoothing

    def init_terms(self, look: Look, knowledge: Knowledge, batch: Batch) -> dict[str, Tensor]:
        """Student's side during the initialisation stage."""
        raise NotImplementedError

    def terms(self, look: Look, knowledge: Knowledge, batch: Batch) -> dict[str, Tensor]:
        """Student's side: named and weighted terms, given in f32 or f64; the cross-entropy is not among them."""
        raise NotImplementedError

    def weights(self, stage: str = "main") -> dict[str, float]:
        """What each term of a stage is multiplied by, cross-entropy apart; for people who read the loss."""
        return {self.term: self.weight} if self.term and stage == "main" else {}

    def described(self) -> str:
        """What is minimised, in a line.

        >>> METHODS["st"]().described()
        '0.1 ce + 0.9 st (T=4)'
        """
        smoothing = f" (label_smoothing={self.smoothing:g})" if self.smoothing else ""
        terms = [f"{self.ce:g} ce{smoothing}"] if self.ce else []
        main = " + ".join([*terms, *self.formula("main")]) or "nothing"
        main += "" if self.ce else ", without cross-entropy"
        if not self.init_share:
            return main
        init = " + ".join(self.formula("init"))
        return f"{init} for the first {100 * self.init_share:g} % of the epochs, then {main}"

    def formula(self, stage: str) -> list[str]:
        """The weighted terms of a stage; behind the last one, the options that are not the usual ones, and T."""
        terms = [f"{weight:g} {name}" for name, weight in self.weights(stage).items()]
        if terms and (options := unusual(self, stage)):
            terms[-1] += f" ({', '.join(options)})"
        return terms

    def loss(self, look: Look, knowledge: Knowledge, batch: Batch, stage: str = "main") -> dict[str, Tensor]:
        """Named, weighted terms whose sum is minimised. `stage` is `init` or `main`.

        >>> method = METHODS["st"]()
        >>> loss = method.loss({"logits": student_logits}, {"logits": teacher_logits}, batch)
        >>> sum(loss.values()).backward()
        """
        batch = labelled_batch(batch)
        require_one_batch(look, knowledge, batch)
        if self.one_label and batch.shares is not None:
            remedy = "take a method such as st, or do not mix"
            raise UsageError("method", "images of one class each, as its formula has them", "mixed images", remedy)
        with torch.autocast(look["logits"].device.type, enabled=False):
            look, knowledge = ordinary(upcast(look)), {k: constant(v) for k, v in upcast(knowledge).items()}
            if batch.known is not None and self.taps:
                batch = replace(batch, whole=batch.whole or (labelled(batch).sum(), len(batch)))
                both = partial(self._loss, stage), partial(self._plain, stage)
                return masked(*both, look, knowledge, batch, self.views)
            return self._loss(stage, look, knowledge, batch)

    def _loss(self, stage: str, look: Look, knowledge: Knowledge, batch: Batch) -> dict[str, Tensor]:
        if stage == "init":
            return self.init_terms(look, knowledge, batch)
        terms = self.terms(look, knowledge, batch)
        if self.ce:
            terms = {"ce": self.ce * cross_entropy(look["logits"], batch, self.smoothing), **terms}
        return terms

    def _plain(self, stage: str, look: Look, knowledge: Knowledge, batch: Batch) -> dict[str, Tensor]:
        """The loss of rows that no teacher has answered: that of a training without one."""
        plain = cross_entropy(look["logits"], batch, self.smoothing)
        return {"ce": 0 * plain if stage == "init" else plain}


def upcast(tensors):
    """Half precision to f32; f64 is left alone."""
    return {k: v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for k, v in tensors.items()}


def unusual(method: Method, stage: str) -> list[str]:
    """The options of a method as they are typed: those that differ from its class's defaults, and T where it counts."""
    distils = stage == "main" and ("logits" in method.taps or not method.taps)
    found = []
    for key, parameter in inspect.signature(type(method).__init__).parameters.items():
        value = method.stated.get(key, getattr(method, key, None))
        if isinstance(value, tuple | list) and key in method.stated and all(isinstance(one, str) for one in value):
            value = ",".join(value)
        if key in ("weight", "ce", "init_share") or not isinstance(value, bool | int | float | str):
            continue
        if (key == "T" and distils) or parameter.default not in (value, parameter.empty):
            if isinstance(value, bool):
                value = "yes" if value else "no"
            found.append(f"{key}={value if isinstance(value, str) else format(value, 'g')}")
    return found


def cross_entropy(logits: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Mean over the labelled rows; 0 where no row has a label.

    Of a mixed image, each of the two labels counts with its share, above and below: a share of an image that has no
    label is left out, as is a row that has none.
    """
    if batch.shares is not None and batch.others is not None:
        return mixed_cross_entropy(logits, batch, batch.others, batch.shares.to(logits), smoothing)
    total = F.cross_entropy(logits, batch.targets, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
    count = label_count(batch, (batch.targets >= 0).sum())
    return total / count.where(count > 0, 1)


def mixed_cross_entropy(logits: Tensor, batch: Batch, others: Tensor, shares: Tensor, smoothing: float) -> Tensor:
    first, own = of_shares(logits, batch.targets, shares, smoothing)
    second, rest = of_shares(logits, others, 1 - shares, smoothing)
    weight = label_count(batch, own + rest)
    return (first + second) / weight.where(weight > 0, 1)


def of_shares(logits: Tensor, targets: Tensor, shares: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The sum of cross-entropies by these shares, and that of the shares that have a label."""
    each = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none", label_smoothing=smoothing)
    return (shares * each).sum(), (shares * (targets >= 0)).sum()


def label_count(batch: Batch, own: Tensor) -> Tensor:
    """How many labels a mean is over: its own; of a part of a batch, as many as an even share of all would be.

    So the parts' means, weighed by their rows, sum up to the mean over the labels of the whole.
    """
    if batch.whole is None:
        return own
    labels, rows = batch.whole
    return labels * (len(batch) / rows)


def labelled(batch: Batch) -> Tensor:
    """How much of each row has a label: 0 or 1, of a mixed image the share of what has one."""
    own = batch.targets >= 0
    if batch.shares is None or batch.others is None:
        return own
    other = batch.others >= 0
    return (batch.shares * own + (1 - batch.shares) * other).where(~(own & other), 1)
