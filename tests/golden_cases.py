"""The golden files, unpacked."""

import zipfile
from pathlib import Path

from golden import make


def folder_of_old(version: str, folder: Path) -> Path:
    with zipfile.ZipFile(make.PLACE / f"{version}.zip") as archive:
        archive.extractall(folder)
    return folder
