"""The Python face: the same engine that the commands use."""

from kdcache.api.dataset import CachedDataset, CachedView, Epochs, EvaluationImages
from kdcache.api.distiller import Distiller

__all__ = ["CachedDataset", "CachedView", "Distiller", "Epochs", "EvaluationImages"]
