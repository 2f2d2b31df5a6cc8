"""docs/commands.md, written from the commands themselves."""

from __future__ import annotations

import html

import click

LONG = 200  # characters; no short help is cut off

HEAD = """# Commands

<!-- `python tests/test_site.py` writes this page -->

Every command, as its `--help` has it. `--json`, where a command has it, prints one object for scripts; `--debug` shows
the traceback of whatever goes wrong. [errors.md](errors.md) says what messages mean.
"""


def reference(group: click.Group) -> str:
    """A section for each command: what it does, its options with their defaults, examples."""
    rows = [
        f"| [`{name}`](#{name}) | {cell(command.get_short_help_str(LONG))} |"
        for name, command in group.commands.items()
    ]
    parts = [HEAD, "| command | does |", "|---|---|", *rows, ""]
    for name, command in group.commands.items():
        with click.Context(command, info_name=f"kdcache {name}") as ctx:
            parts += [
                f"## {name}\n",
                f"{described(command)}\n",
                f"```\n{usage(command, ctx)}\n```\n",
                *tables(command, ctx),
            ]
            parts.append(f"```\n{plain(command.example)}\n```\n")
    return "\n".join(parts)


def described(command: click.Command) -> str:
    paragraphs = (command.help or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def usage(command: click.Command, ctx: click.Context) -> str:
    return " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])


def tables(command: click.Command, ctx: click.Context) -> list[str]:
    records = [param.get_help_record(ctx) for param in command.get_params(ctx)]
    rows = [
        f"| <code>{cell(option)}</code> | {cell(says)} |"
        for option, says in filter(None, records)
        if "--help" not in option
    ]
    return ["| option | |", "|---|---|", *rows, ""]


def cell(text: str) -> str:
    """A text within a table of Markdown, where a bar ends a cell even in code."""
    return " ".join(html.escape(text, quote=False).replace("|", "&#124;").split())


def plain(example: str) -> str:
    return "\n".join(line.strip() for line in example.strip().splitlines())
