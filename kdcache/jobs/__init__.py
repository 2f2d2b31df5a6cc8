"""Where strings become objects: what the commands, the Python face and the recipes all call."""

from kdcache.jobs.catalogue import tables
from kdcache.jobs.data import (
    DEFAULT_DATA,
    Data,
    choose_device,
    describe,
    load_teacher,
    require_place,
    settings,
    teacher_folder,
    workers_for,
)
from kdcache.jobs.imports import import_logits
from kdcache.jobs.inspection import evaluate, show, verify
from kdcache.jobs.plan import plan
from kdcache.jobs.pseudo import dump_pseudo, pseudo_from_text, pseudo_teacher
from kdcache.jobs.student import Student, asking, default_student, live_teacher, open_student_data, train_student
from kdcache.jobs.teacher import DumpOptions, dump_options, make_dump, train_teacher

__all__ = [
    "DEFAULT_DATA",
    "Data",
    "DumpOptions",
    "Student",
    "asking",
    "choose_device",
    "default_student",
    "describe",
    "dump_options",
    "dump_pseudo",
    "evaluate",
    "import_logits",
    "live_teacher",
    "load_teacher",
    "make_dump",
    "open_student_data",
    "plan",
    "pseudo_from_text",
    "pseudo_teacher",
    "require_place",
    "settings",
    "show",
    "tables",
    "teacher_folder",
    "train_student",
    "train_teacher",
    "verify",
    "workers_for",
]
