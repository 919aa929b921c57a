"""Removing what a run computed and reported.

    python -m lib.running.clean --run=demo

`make clean` calls this, perhaps before there is an environment. What git tracks stays: reports that are part of the
repository. So does what no run can compute again: what people wrote in the run's chat, and how they voted.
"""

import argparse
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lib import lock, paths
from lib.config import run_name
from lib.paths import RunPaths


class RunningError(ValueError):
    """A run that is in use; the message says by what, and what to do."""


def clean(files: RunPaths) -> list[Path]:
    """Remove the folders of a run, but for what people wrote; return the files that git tracks there, which stay too.

    Raises:
        LockError: if it is being made.
        RunningError: if its chat is running.
    """
    kept = _tracked(files.reports)
    with lock.held(files), _without_chat(files):
        for folder in (files.artifacts, files.reports):
            # A run may have been put on another disk.
            if folder.is_symlink():
                folder.unlink()
            elif folder.is_dir():
                _remove(folder, {*kept, *written(files)})
    return kept


def written(files: RunPaths) -> list[Path]:
    """What is there that people wrote: the data of its chat, and the votes that it was last trained further on."""
    return [path for path in (files.chat, files.votes) if path.exists()]


@contextmanager
def _without_chat(files: RunPaths) -> Iterator[None]:
    """Hold the run's chat within the block, so that none is running or begins: it answers with the run's adapter."""
    if not files.chat.is_dir():
        yield
        return
    # The chat locks its folder (webapp/serve/supervisor.py).
    descriptor = os.open(files.chat, os.O_RDONLY)
    try:
        # On a file system that has no locks there is none to see.
        with suppress(OSError):
            if not lock.take(descriptor):
                raise RunningError(
                    f"RUN={files.run}: the chat of this run is running. End it first, by Ctrl-C where it was started"
                )
        yield
    finally:
        os.close(descriptor)


def _remove(folder: Path, kept: set[Path]) -> None:
    if not any(folder in path.parents for path in kept):
        shutil.rmtree(folder)
        return
    for path in folder.iterdir():
        if path in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            _remove(path, kept)
        else:
            path.unlink()


def _tracked(folder: Path) -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--", str(folder)], cwd=paths.ROOT, capture_output=True, text=True, check=True
        ).stdout
    # Without git, or outside a clone, nothing is tracked.
    except (OSError, subprocess.CalledProcessError):
        return []
    return sorted(paths.ROOT / name for name in listed.split("\0") if name)


def main() -> None:
    """Remove what a run computed and reported."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", required=True)
    try:
        files = RunPaths(run_name(parser.parse_args().run))
        kept = clean(files)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    told = " ".join(str(folder.relative_to(paths.ROOT)) for folder in (files.artifacts, files.reports))
    print(f"Removed {told}" + (f", but for the {len(kept)} files that git tracks" if kept else ""))
    if left := [str(path.relative_to(paths.ROOT)) for path in written(files)]:
        print(
            f"Kept what people wrote, which no run makes again: {' '.join(left)}. To remove that too: "
            f"{shlex.join(['rm', '-r', *left])}"
        )


if __name__ == "__main__":
    main()
