"""The lines on which the tables and keys of a TOML file stand, which tomllib does not tell."""

from __future__ import annotations

import contextlib
import re
from collections import Counter

TOKEN = re.compile(
    r"""
    \#[^\n]* | \"{3} (?:\\.|[^\\])*? \"{3,5} | '{3} .*? '{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*'
    | \n | [\[\]{},=] | [^\s"'\#\[\]{},=]+
    """,
    re.DOTALL | re.VERBOSE,
)


class Lines:
    """Path of a table or key -> line. Of a file that tomllib has read without complaint.

    >>> lines = Lines("mine.toml", 'seeds = 3\\n[[student]]\\nmethod = "st"\\n')
    >>> lines.at(("student", 0, "method")), lines.at(("student", 0, "lr"))
    ('mine.toml:3', 'mine.toml:2')
    """

    def __init__(self, path: str, text: str):
        self.path = path
        self.found: dict[tuple, int] = {}
        self.tokens, line = [], 1
        for match in TOKEN.finditer(text):
            if not match[0].startswith("#"):
                self.tokens.append((match[0], line))
            line += match[0].count("\n")
        self.tokens.append(("\n", line))
        self.place = 0
        with contextlib.suppress(IndexError):  # what is not understood is not told
            self.read()

    def at(self, path: tuple) -> str:
        """The file and the line of a key; of one that is not written, of the table that it would stand in."""
        while path and path not in self.found:
            path = path[:-1]
        return f"{self.path}:{self.found[path]}" if path else self.path

    def read(self) -> None:
        """Headers and keys of the whole file."""
        table: tuple = ()
        counts: Counter[tuple] = Counter()
        while self.place < len(self.tokens):
            if self.token() == "\n":
                self.place += 1
            elif self.token() == "[":
                table = self.header(counts)
            else:
                self.pair(table)

    def header(self, counts: Counter) -> tuple:
        """[a.b] or [[a]], each of which is one more of its name."""
        line, start = self.tokens[self.place][1], self.place
        while self.place < len(self.tokens) and self.token() != "\n":
            self.place += 1
        tokens = [token for token, _ in self.tokens[start : self.place]]
        name, *rest = keys("".join(token for token in tokens if token not in "[]"))
        path = (name, *rest)
        if tokens[:2] == ["[", "["]:
            counts[path] += 1
            path = (*path, counts[path] - 1)
        elif counts[name,]:  # [student.pseudo] is of the last [[student]]
            path = (name, counts[name,] - 1, *rest)
        self.found.setdefault(path, line)
        self.found.setdefault(path[:1], line)
        return path

    def pair(self, table: tuple) -> None:
        """key = value."""
        line, name = self.tokens[self.place][1], ""
        while self.token() != "=":
            name += self.token()
            self.place += 1
        self.place += 1
        path = (*table, *keys(name))
        self.found.setdefault(path, line)
        self.value(path)

    def value(self, path: tuple) -> None:
        """A number or text, or what stands between brackets."""
        opened = self.token()
        self.place += 1
        if opened not in "[{":
            while self.token() not in ",]}\n":  # a date may have a space in it
                self.place += 1
            return
        number = 0
        while self.skipped() not in "]}":
            if opened == "{":
                self.pair(path)
            else:
                self.found[*path, number] = self.tokens[self.place][1]
                self.value((*path, number))
                number += 1
        self.place += 1

    def token(self) -> str:
        return self.tokens[self.place][0]

    def skipped(self) -> str:
        """The next token that is neither a comma nor the end of a line."""
        while self.token() in ",\n":
            self.place += 1
        return self.token()


def keys(name: str) -> tuple[str, ...]:
    """The parts of a dotted key."""
    return tuple(part.strip("\"'") for part in re.findall(r'"[^"]*"|\'[^\']*\'|[^.\s]+', name))
