"""The catalogue of distillation methods: to add one, write its class and name it here."""

from __future__ import annotations

from kdcache.methods.attention import Attention
from kdcache.methods.base import Method
from kdcache.methods.boundary import ActivationBoundaries, Overhaul
from kdcache.methods.factor import FactorTransfer
from kdcache.methods.fsp import FSP
from kdcache.methods.hints import VID, FitNet
from kdcache.methods.mhgd import Graph
from kdcache.methods.mutual import Mutual
from kdcache.methods.regularise import LabelSmoothing, TeacherFree
from kdcache.methods.relation import Relational
from kdcache.methods.response import Decoupled, Logits, Plain, SoftTarget
from kdcache.methods.similarity import NeuronSelectivity, SimilarityPreserving
from kdcache.methods.svd import SingularVectors

METHODS: dict[str, type[Method]] = {
    "none": Plain,
    "st": SoftTarget,
    "logits": Logits,
    "dkd": Decoupled,
    "ls": LabelSmoothing,
    "tfkd": TeacherFree,
    "dml": Mutual,
    "at": Attention,
    "fitnet": FitNet,
    "vid": VID,
    "ft": FactorTransfer,
    "ab": ActivationBoundaries,
    "co": Overhaul,
    "fsp": FSP,
    "sp": SimilarityPreserving,
    "nst": NeuronSelectivity,
    "rkd": Relational,
    "kdsvd": SingularVectors,
    "mhgd": Graph,
}

ALIASES = {"kdeid": ("kdsvd", "eid")}
"""Names that stand for a variant."""
