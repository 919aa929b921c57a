"""Files that are whole or absent, so that a run killed at any moment can continue from what it finds."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path to write a file or a folder to; it becomes `path` only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    _remove(temporary)
    yield temporary
    if temporary.is_dir() and path.is_dir():
        # A folder cannot replace one that has files in it.
        old = path.with_name(f".{path.name}.old")
        _remove(old)
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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
