"""Files that are whole or absent, so that a run killed at any moment can continue from what it finds."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: What libraries say where a disk is full.
_FULL = ("No space left", "os error 28", "quota exceeded", "PytorchStreamWriter", "unexpected pos ", "or disk is full")


#: Of what a process writes to, and of the folder that it replaces.
_ENDINGS = (".partial", ".old")


class FullDiskError(ValueError):
    """Something could not be written; the message says where, and how much room there is."""


def full_disk(error: str, *folders: Path) -> str | None:
    """A sentence on the fullest of the disks that these folders are on, if an error says that a disk is full."""
    if not any(words in error for words in _FULL):
        return None
    there = [next(part for part in (folder, *folder.parents) if part.exists()) for folder in folders]
    usage = {folder: shutil.disk_usage(folder) for folder in there}
    fullest = min(usage, key=lambda folder: usage[folder].free)
    free, total = usage[fullest].free, usage[fullest].total
    return (
        f"the disk of {fullest} is full, or your share of it: {free / 1e6:,.0f} MB of {total / 1e9:,.1f} GB are free. "
        "Free some, or put that folder on a larger disk"
    )


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path to write a file or a folder to; it becomes `path` only when the block ends without an error.

    Several processes may write the same: each has a temporary path of its own, and the last to end has its way.

    Raises:
        FullDiskError: if there is no room for it.
    """
    own = f".{path.name}.{socket.gethostname()}.{os.getpid()}"
    temporary, old = (path.with_name(own + ending) for ending in _ENDINGS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in _left_behind(path):
            _remove(left)
        yield temporary
    except Exception as error:
        if why := full_disk(str(error), path.parent):
            raise FullDiskError(f"{path.name} could not be written: {why}") from error
        raise
    _share(temporary)
    if temporary.is_dir() and path.is_dir():
        # A folder cannot replace one that has files in it.
        path.rename(old)
        temporary.rename(path)
        _remove(old)
    else:
        temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_if_changed(path: Path, text: str) -> None:
    """Write `text` unless the file has it already: an unchanged file keeps its time, so Make reruns nothing."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _share(folder: Path) -> None:
    """Give the files of a folder the rights that the umask gives: some libraries leave theirs to their owner alone."""
    if folder.is_dir():
        rights = folder.stat().st_mode & 0o666
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o777 != rights:
                path.chmod(rights)


def _left_behind(path: Path) -> list[Path]:
    """What earlier writes of this process and killed processes of this machine left beside a path."""
    begin, found = f".{path.name}.{socket.gethostname()}.", []
    for other in path.parent.iterdir():
        number = other.stem.removeprefix(begin)
        if other.name.startswith(begin) and other.suffix in _ENDINGS and number.isdecimal() and not _at_work(number):
            found.append(other)
    return found


def _at_work(process: str) -> bool:
    """Whether another process has this number, and may still be writing."""
    try:
        os.kill(int(process), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return int(process) != os.getpid()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
