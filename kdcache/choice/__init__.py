"""Where strings become objects: what the commands, the Python face and the recipes all call."""

from kdcache.choice.data import DEFAULT_DATA, Data, choose_device, describe, load_teacher, teacher_folder
from kdcache.choice.look import evaluate, show, tables, verify
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
    "live_teacher",
    "load_teacher",
    "make_dump",
    "open_student_data",
    "pseudo_from_text",
    "pseudo_teacher",
    "show",
    "tables",
    "teacher_folder",
    "train_student",
    "train_teacher",
    "verify",
]
