"""The folder of files that are made once and used again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $DALI_SALAUG_CACHE, or dali_salaug in $XDG_CACHE_HOME (default: ~/.cache)."""
    if own := os.environ.get("DALI_SALAUG_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dali_salaug"
