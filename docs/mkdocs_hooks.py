"""What the site has beside the pages of this folder: README as its front page, and a page of the commands."""

import re
from pathlib import Path

from mkdocs.structure.files import File

from kdcache.cli import main
from kdcache.cli.reference import reference

ROOT = Path(__file__).parent.parent


def on_files(files, config):
    front = re.sub(r"([\[(])docs/", r"\1", (ROOT / "README.md").read_text("utf-8"))
    for name, text in (("index.md", front), ("commands.md", reference(main))):
        files.append(File.generated(config, name, content=text))
    return files
