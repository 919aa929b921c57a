"""The files that a run reads from outside, and whether they are still those that it read.

Make compares times, and cannot write every name: a file that is replaced by one with an older time, or that lies deeper
in a folder, would go unnoticed. So what these files hold is among the settings that Make compares.
"""

import glob
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from lib import paths
from lib.config import Config
from lib.model import packaged
from lib.storage import write_json

#: Bytes to be read from which the wait is announced.
ANNOUNCED = 1 << 30


def named(config: Config, stage: str) -> dict[str, str]:
    """What a stage reads from outside: the names of the settings, by kind."""
    model = {"base model": config.model.base_model}
    return {
        "sampling": {"corpus": config.corpus.source},
        "preprocessing": model,
        "training": model,
        "evaluation": model | {"English rows": config.english.source},
    }.get(stage, {})


def fingerprints(wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """For each kind and name a SHA-256 over the names and the contents of its files.

    What is pinned in other ways has none: the demo's corpus, public repositories, packages, and what is on the hub.
    Files that cannot be found or read now count as those that were there last: a run that was finished on another disk
    stays finished, and a stage that does need them says what is wrong. A file is read once, and again only when its
    size, times or inode differ.
    """
    record = paths.ROOT / "artifacts" / ".hashes.json"
    record.parent.mkdir(exist_ok=True)
    # Several runs may be made at once.
    with FileLock(record.with_name(f"{record.name}.lock")):
        try:
            known = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {"files": {}, "names": {}}
        before = json.dumps(known)
        found = {}
        for kind, name in wanted:
            key = f"{kind} {name}"
            try:
                files = _files(kind, name)
                _announce(name, files.values(), known["files"])
                contents = [[of, _sha256(path, known["files"])] for of, path in files.items()]
            # A CorpusError is a ValueError.
            except (OSError, ValueError):
                contents = []
            if contents:
                known["names"][key] = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
            if key in known["names"]:
                found[kind, name] = known["names"][key]
        if json.dumps(known) != before:
            write_json(record, known)
    return found


def _files(kind: str, name: str) -> dict[str, Path]:
    if kind == "base model":
        if name in packaged.PACKAGES:
            return {}
        place = paths.DEMO_BASE_MODEL if name == "demo" else Path(paths.located(name))
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        return {path.name: path for path in inside if path.is_file() and not path.name.startswith(".")}
    place = Path(paths.located(name))
    if name in ("", "demo", "open") or not (place.exists() or glob.has_magic(name)):
        return {}
    # Slow to import, and not needed for the demo.
    from lib.corpus.files import find_files

    # A pipe would be waited for.
    return {of: path for of, path in find_files(str(place)).files.items() if path.is_file()}


def _announce(name: str, files: Iterable[Path], known: dict[str, list[Any]]) -> None:
    unread = sum(path.stat().st_size for path in files if not _is_known(path, known))
    if unread >= ANNOUNCED:
        print(f"Reading {unread / 1e9:.1f} GB of {name}, to know later whether it has changed", file=sys.stderr)


def _sha256(path: Path, known: dict[str, list[Any]]) -> str:
    if not _is_known(path, known):
        known[str(path)] = [*packaged.state(path), packaged.sha256(path)]
    return str(known[str(path)][-1])


def _is_known(path: Path, known: dict[str, list[Any]]) -> bool:
    return known.get(str(path), [])[:-1] == list(packaged.state(path))
