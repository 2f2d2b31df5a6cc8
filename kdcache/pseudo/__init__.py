"""A teacher that never existed, with the accuracy that was asked for: a pure function of (seed, row, view).

    labels --wrong.py--> the class it answers --shape.py--> peak and rest, in logits
    ask.py says what may be asked and refuses the rest; measure.py reads the same from a real teacher's logits

>>> import numpy as np
>>> teacher = PseudoTeacher(0.8, labels=np.arange(50) % 10, seed=1)
>>> int((teacher.decisions() != teacher.labels).sum())
10
>>> teacher.logits(view=0, rows=[5, 3]).shape
(2, 10)
"""

from kdcache.pseudo.ask import parse_accuracy, read_confusion
from kdcache.pseudo.teacher import PseudoTeacher

__all__ = ["PseudoTeacher", "parse_accuracy", "read_confusion"]
