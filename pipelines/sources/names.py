"""What names of files and folders say: which are for training, which for validation, and which are no data."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..readers.base import DataError

TRAIN, VAL, TEST = "train", "val", "test"
# A name's words: letters together, and capitals within them. "strain" and "interval" are others than "train" and "val".
_WORD = re.compile(r"[A-Z]?(?:(?![A-Z])[^\W\d_])+|[A-Z]+(?![a-z])")
_WORDS = {
    TRAIN: re.compile(r"train(ing)?(set|data)?", re.IGNORECASE),
    VAL: re.compile(r"val(id(ation)?)?(set|data)?", re.IGNORECASE),
    TEST: re.compile(r"test(ing)?(set|data)?", re.IGNORECASE),
}
# Folders of class folders: the whole name. An image class may be called "bullet train".
_FOLDERS = {
    TRAIN: re.compile(r"(ilsvrc\d*_img_)?train(ing)?", re.IGNORECASE),
    VAL: re.compile(r"(ilsvrc\d*_img_)?val(id(ation)?)?", re.IGNORECASE),
    TEST: re.compile(r"(ilsvrc\d*_img_)?test(ing)?", re.IGNORECASE),
}
# Made by systems and programs in folders of others' files, hidden ones (with a dot) aside.
_JUNK = {
    "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "__pycache__", "lost+found",
    "system volume information",
}  # fmt: skip

# Suffixes of files that are beside images because they describe them.
_COMPANIONS = {
    ".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".md", ".html", ".htm", ".yaml", ".yml", ".ini", ".db", ".log",
}  # fmt: skip
_LONGEST = 12  # characters of a suffix


def is_left_out(name: str) -> bool:
    """Return whether a file or a folder is hidden, or no data of the user's."""
    return name.startswith(".") or is_junk(name)


def is_junk(name: str) -> bool:
    """Return whether a folder has the name of those that systems and programs make."""
    return name.lower() in _JUNK


def says(name: str, split: str) -> bool:
    """Return whether one of a name's words is that of a split, "train", "val" or "test", in any case."""
    return any(_WORDS[split].fullmatch(word) for word in _WORD.findall(name))


def says_any(name: str) -> bool:
    """Return whether one of a name's words is that of a split."""
    return any(says(name, split) for split in _WORDS)


def split_folder(names: Iterable[str], split: str, top: str | os.PathLike[str]) -> str | None:
    """Return the one of the folders' names that is the folder of a split; None if none is.

    Args:
        names: Of the folders in `top`.

    Raises:
        DataError: It could be several.
    """
    found = sorted(name for name in names if _FOLDERS[split].fullmatch(name))
    if split in found:
        return split
    if len(found) > 1:
        raise DataError(f"'{os.fspath(top)}' has {len(found)} folders for '{split}': {', '.join(found)}. Keep one.")
    return found[0] if found else None


def note_left_out(name: str, left_out: Counter[str]) -> None:
    """Count a file by its suffix, "" where it has none, unless it only describes images, such as text."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in _COMPANIONS:
        left_out[suffix if len(suffix) <= _LONGEST else ""] += 1


def is_folder(entry: os.DirEntry) -> bool:
    """Return whether an entry is a folder, or leads to one; a link to itself does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def subfolders(folder: str | os.PathLike[str]) -> list[str]:
    """Return the sorted names of the folders in `folder` that are not left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_left_out(entry.name) and is_folder(entry))


def find_split(top: Path, split: str) -> Path | None:
    """Return the folder of a split in `top`; None if there is none.

    Raises:
        DataError: It could be several.
    """
    name = split_folder(subfolders(top), split, top)
    return None if name is None else top / name
