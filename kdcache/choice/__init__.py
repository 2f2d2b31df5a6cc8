"""Where strings become objects: what the commands, the Python face and the recipes all call."""

from kdcache.choice.bring import import_logits
from kdcache.choice.catalogue import tables
from kdcache.choice.data import (
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
from kdcache.choice.look import evaluate, show, verify
from kdcache.choice.plan import plan
from kdcache.choice.soft import dump_pseudo, pseudo_from_text, pseudo_teacher
from kdcache.choice.student import Student, asking, default_student, live_teacher, open_student_data, train_student
from kdcache.choice.teacher import DumpOptions, dump_options, make_dump, train_teacher

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
