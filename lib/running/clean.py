"""Removing what a run computed and reported.

    python -m lib.running.clean --run=demo

`make clean` calls this, perhaps before there is an environment. What git tracks stays: reports that are part of the
repository.
"""

import argparse
import shutil
import subprocess
from pathlib import Path

from lib import lock, paths
from lib.config import run_name
from lib.paths import RunPaths


def clean(files: RunPaths) -> list[Path]:
    """Remove the folders of a run; return the files that git tracks there, which stay.

    Raises:
        LockError: if it is being made.
    """
    kept = _tracked(files.reports)
    with lock.held(files):
        for folder in (files.artifacts, files.reports):
            # A run may have been put on another disk.
            if folder.is_symlink():
                folder.unlink()
            elif folder.is_dir():
                _remove(folder, set(kept))
    return kept


def _remove(folder: Path, kept: set[Path]) -> None:
    if not any(folder in path.parents for path in kept):
        shutil.rmtree(folder)
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _remove(path, kept)
        elif path not in kept:
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


if __name__ == "__main__":
    main()
