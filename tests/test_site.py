"""The site builds without a warning, its page of commands is whole, and the notebook runs."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli_cases import good

from kdcache.cli import main
from kdcache.cli.reference import reference

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "commands.md"


def test_the_site_builds_and_no_link_leads_nowhere(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "commands/index.html", "tutorial/index.html"):
        assert (tmp_path / page).is_file()
    assert "docs/" not in (tmp_path / "index.html").read_text().partition("<article")[2].partition("</article>")[0]


def test_the_page_of_commands_is_as_the_commands_are():
    assert PAGE.read_text() == reference(main), "run python tests/test_site.py"


def test_the_reference_has_every_command_and_option():
    text = reference(main)
    for name, command in main.commands.items():
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section
        for param in command.params:
            assert getattr(param, "hidden", False) or param.param_type_name == "argument" or param.opts[-1] in section


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_the_notebook_runs(in_tmp):
    cells = json.loads((ROOT / "docs" / "examples" / "digits.ipynb").read_text())["cells"]
    names: dict = {}
    for cell in cells:
        text = "".join(cell["source"]).replace("epochs=15", "epochs=1")
        if cell["cell_type"] == "code" and text.startswith("!kdcache "):
            good(shlex.join(shlex.split(text)[1:]))
        elif cell["cell_type"] == "code":
            exec(compile(text, "digits.ipynb", "exec"), names)
    assert 0 <= names["students"]["st"][-1]["top1"] <= 1


if __name__ == "__main__":
    PAGE.write_text(reference(main))
