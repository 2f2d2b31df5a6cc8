"""Students, and teachers, trained in one loop."""

from kdcache.train.evaluate import Evaluation
from kdcache.train.loop import fit
from kdcache.train.optim import OPTIMIZERS, SCHEDULES, Settings
from kdcache.train.records import figures

__all__ = ["OPTIMIZERS", "SCHEDULES", "Evaluation", "Settings", "figures", "fit"]
