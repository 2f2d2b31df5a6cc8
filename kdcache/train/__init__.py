"""Students, and teachers, trained in one loop."""

from kdcache.train.callbacks import Listeners
from kdcache.train.evaluate import Evaluation
from kdcache.train.joining import joined
from kdcache.train.loop import Course, Feed, fit, fit_together
from kdcache.train.optim import OPTIMIZERS, SCHEDULES, Settings
from kdcache.train.records import figures, forget_peak
from kdcache.train.team import ONE_PROCESS, Team
from kdcache.train.trainer import Trainer

__all__ = [
    "ONE_PROCESS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Course",
    "Evaluation",
    "Feed",
    "Listeners",
    "Settings",
    "Team",
    "Trainer",
    "figures",
    "fit",
    "fit_together",
    "forget_peak",
    "joined",
]
