"""What the site has beside the pages of this folder: README as its front page, and two pages of the root."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changes.md"}


def on_files(files, config):
    for name, page in PAGES.items():
        text = re.sub(r"([\[(])docs/", r"\1", (ROOT / name).read_text("utf-8"))
        for other, its in PAGES.items():
            text = text.replace(f"]({other})", f"]({its})")
        files.append(File.generated(config, page, content=text))
    return files
