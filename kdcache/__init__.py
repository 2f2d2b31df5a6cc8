"""Run the teacher once, train any number of students from its stored answers, on exactly the pixels that it saw."""

import os

# albumentations asks a package index for its newest version on import; offline that costs seconds in every worker
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
