"""A small recipe with a bit of everything."""

from pathlib import Path

RECIPE = """
title = "A small one"
data = "synthetic:64,4,16"
seeds = 2
show = true
[settings]
epochs = 1
batch = 16
[teacher]
model = "tiny-3"
[dump]
views = 2
[plot]
x = "epochs"
[[student]]
name = "plain"
method = "none"
model = "tiny-2"
series = "plain"
[[student]]
name = "st/4 a"
method = "st:T=4"
model = "tiny-2"
series = "st"
x = 1
[[student]]
method = "at"
model = "tiny-2"
live = true
[[student]]
name = "pseudo"
model = "tiny-2"
pseudo = { accuracy = "0.9" }
"""


def write(old: str = "", new: str = "", name: str = "small.toml") -> str:
    """The recipe in a file, with a part of it replaced."""
    assert old in RECIPE
    Path(name).write_text(RECIPE.replace(old, new, 1))
    return name
