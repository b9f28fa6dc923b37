"""What every record of a study names beside its command."""

import subprocess
from pathlib import Path


def commit_here() -> str:
    """The commit this runs from, to be read before anything else; "-dirty" if tracked files differ from it."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    found = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return found.stdout.strip() or "unknown"
