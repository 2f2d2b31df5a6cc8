"""The Python face: the same engine that the commands use."""

from kdcache.api.dataset import CachedDataset, CachedView, Epochs, EvaluationImages, NumberedImages
from kdcache.api.distiller import Distiller
from kdcache.api.loss import KnowledgeLoss
from kdcache.api.stream import CachedStream

__all__ = [
    "CachedDataset",
    "CachedStream",
    "CachedView",
    "Distiller",
    "Epochs",
    "EvaluationImages",
    "KnowledgeLoss",
    "NumberedImages",
]
