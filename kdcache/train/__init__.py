"""Students, and teachers, trained in one loop."""

from kdcache.train.callbacks import Listeners
from kdcache.train.evaluate import Evaluation
from kdcache.train.loop import Course, Feed, fit, fit_together
from kdcache.train.optim import OPTIMIZERS, SCHEDULES, Settings
from kdcache.train.records import figures
from kdcache.train.trainer import Trainer

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Course",
    "Evaluation",
    "Feed",
    "Listeners",
    "Settings",
    "Trainer",
    "figures",
    "fit",
    "fit_together",
]
