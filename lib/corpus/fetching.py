"""Named files of public git repositories at one commit: fetched by git, checked, resumed, and offline once there."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lib.corpus.files import CorpusError

#: A connection that stays slower than this many bytes a second for a minute is given up.
_SLOWEST = 1_000
_OPTIONS = ("-c", f"http.lowSpeedLimit={_SLOWEST}", "-c", "http.lowSpeedTime=60", "-c", "gc.auto=0")
#: What git says, in its own words and those of servers, and what that means.
_FULL = re.compile("No space left on device", re.IGNORECASE)
_NO_COMMIT = re.compile("not our ref|couldn't find remote ref|unadvertised object", re.IGNORECASE)
_NO_REPOSITORY = re.compile(
    "repository '.*' not found|repository not found|does not appear to be a git repository|could not read Username"
    "|returned error: 40[34]",
    re.IGNORECASE,
)
_NO_NETWORK = re.compile(
    "could not resolve|failed to connect|couldn't connect|connection (timed out|refused|reset)|network is unreachable"
    "|too slow|early EOF|unexpected disconnect|unable to access|the remote end hung up",
    re.IGNORECASE,
)


#: The table of `CORPUS=open`.
SOURCES = "lib/corpus/tables/sources.toml"


class FetchError(CorpusError):
    """A file of a public repository cannot be had; the message says why, and what to do."""


class _GitError(Exception):
    """What git wrote to its standard error."""


@dataclass(frozen=True)
class Pin:
    """A file of a repository, or all Markdown files of a folder, whose path then ends with a slash."""

    path: str
    bytes: int
    """Of all files together."""
    sha256: str
    """Of a file; of a folder, that of its files' SHA-256 and paths, as `sha256sum` prints them in order of path."""
    count: int = 1

    def has(self, path: str) -> bool:
        """Whether a path of the repository belongs to this pin."""
        return path.startswith(self.path) and path.endswith(".md") if self.path.endswith("/") else path == self.path


def fetch(repository: str, commit: str, pins: Sequence[Pin], folder: Path, table: str = SOURCES) -> None:
    """Bring what is pinned into `folder`, each file under its path in the repository.

    Only files that are absent or not as pinned are fetched; where there are none, git is not started.

    Args:
        repository: a URL that git can fetch from.
        commit: 40 hex digits.
        table: the file that pins them, as messages name it.

    Raises:
        FetchError: if git is not installed, the repository cannot be reached or has no such commit, the disk is full,
            or what came is not what was pinned.
    """
    if all(is_right(folder, pin) for pin in pins):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            # Whoever had the folder before may have fetched it all.
            if wrong := [pin for pin in pins if not is_right(folder, pin)]:
                # A server may know no filters, or give no file by itself; then all files of the commit are fetched.
                try:
                    _download(repository, commit, wrong, folder, ["--filter=blob:none"])
                except _GitError:
                    _download(repository, commit, wrong, folder, [])
    except _GitError as error:
        raise FetchError(_why(repository, commit, str(error), table)) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FetchError(_full(repository)) from None
        raise
    for pin in wrong:
        if not is_right(folder, pin):
            raise FetchError(_differs(repository, commit, folder, pin, table))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder within the block; another process that fetches into it waits. Without locks, nothing is held."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_right(folder: Path, pin: Pin) -> bool:
    """Whether what is pinned is in the folder, whole and unchanged."""
    return _measure(folder, pin) == (pin.count, pin.bytes, pin.sha256)


def read(folder: Path, pin: Pin) -> dict[str, bytes]:
    """The files of a pin by their paths, in order."""
    return {path: (folder / path).read_bytes() for path in _there(folder, pin)}


def _there(folder: Path, pin: Pin) -> list[str]:
    if not pin.path.endswith("/"):
        return [pin.path] if (folder / pin.path).is_file() else []
    return sorted(path.relative_to(folder).as_posix() for path in (folder / pin.path).rglob("*.md") if path.is_file())


def _measure(folder: Path, pin: Pin) -> tuple[int, int, str]:
    """Number, bytes and SHA-256 of the files that are there of a pin."""
    files = read(folder, pin)
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    if not pin.path.endswith("/"):
        return len(files), sum(map(len, files.values())), digests.get(pin.path, "")
    listing = "".join(f"{digest}  {path}\n" for path, digest in digests.items())
    return len(files), sum(map(len, files.values())), hashlib.sha256(listing.encode()).hexdigest()


def _download(repository: str, commit: str, pins: Sequence[Pin], folder: Path, filtered: Sequence[str]) -> None:
    """Fetch one commit, without its files where the server can filter, and then the files that are not here."""
    git = folder / ".git"
    try:
        _bring(git, repository, commit, pins, folder, filtered)
    finally:
        shutil.rmtree(git, ignore_errors=True)


def _bring(git: Path, repository: str, commit: str, pins: Sequence[Pin], folder: Path, filtered: Sequence[str]) -> None:
    # What an earlier process was killed at.
    shutil.rmtree(git, ignore_errors=True)
    _git(git, "init", "--quiet", "--bare", str(git))
    _git(git, "remote", "add", "origin", repository)
    fetched = (*_OPTIONS, "fetch", "--quiet", "--no-tags", *filtered)
    _git(git, *fetched, "--depth=1", "origin", commit)
    tree = _git(git, "ls-tree", "-r", "-z", "--full-tree", commit).decode()
    entries = [line.split("\t", 1) for line in tree.split("\0") if line]
    blobs = {path: about.split()[2] for about, path in entries if about.startswith("100")}
    wanted = {path: blob for path, blob in blobs.items() if any(pin.has(path) for pin in pins)}
    wanted = {path: blob for path, blob in wanted.items() if _blob(folder / path) != blob}
    objects = _git(git, "rev-list", "--objects", "--missing=print", commit).decode(errors="replace").splitlines()
    lacking = sorted(set(wanted.values()) & {name[1:] for name in objects if name.startswith("?")})
    if lacking:
        # All at once, as git does for a checkout: asked for one by one, each would be a connection of its own.
        _git(git, "-c", "fetch.negotiationAlgorithm=noop", *fetched, "--stdin", "origin", given=_listed(lacking))
    # Not checked out: a checkout may change the ends of lines.
    printed = _git(git, "cat-file", "--batch", given=_listed(wanted.values()))
    for path, data in zip(wanted, _contents(printed), strict=True):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{path}.partial"
        partial.write_bytes(data)
        partial.replace(folder / path)


def _listed(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _contents(printed: bytes) -> Iterator[bytes]:
    """The contents of the objects that `git cat-file --batch` printed."""
    place = 0
    while place < len(printed):
        # Each is preceded by a line with its name, type and size, and followed by a line feed.
        start = printed.index(b"\n", place) + 1
        place = start + int(printed[place:start].split()[2])
        yield printed[start:place]
        place += 1


def _blob(path: Path) -> str:
    """The name that git gives to the content of a file; empty where there is none."""
    if not path.is_file():
        return ""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _git(git: Path, *words: str, given: bytes = b"") -> bytes:
    """What a git command prints."""
    # In English, for `_why`; and a question would wait for an answer that nobody gives.
    speaking = os.environ | {"LC_ALL": "C", "LANGUAGE": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(["git", "--git-dir", git, *words], input=given, capture_output=True, env=speaking)
    except FileNotFoundError:
        raise FetchError(
            "git is not installed, and public sources are fetched with it. Install git (https://git-scm.com), or do "
            "without them: give CORPUS a file or folder, and set BENCHMARKS=none."
        ) from None
    if done.returncode:
        raise _GitError(done.stderr.decode(errors="replace"))
    return done.stdout


def _why(repository: str, commit: str, said: str, table: str) -> str:
    if _FULL.search(said):
        return _full(repository)
    if _NO_COMMIT.search(said):
        return (
            f"{repository} has no commit {commit} any more: its history was rewritten. Update Klepon, or take this "
            f"source out of {table}."
        )
    if _NO_REPOSITORY.search(said):
        return (
            f"there is no public repository {repository} any more. Update Klepon, or take this source out of {table}."
        )
    reason = next((line for line in reversed(said.strip().splitlines()) if line.strip()), "git said nothing")
    if _NO_NETWORK.search(said):
        return f"{repository} cannot be reached ({reason}). Check the network and run again: what was fetched is kept."
    return f"git could not fetch {commit} of {repository} ({reason}). Run again: what was fetched is kept."


def _full(repository: str) -> str:
    return f"the disk became full while {repository} was fetched. Free some and run again: what was fetched is kept."


def _differs(repository: str, commit: str, folder: Path, pin: Pin, table: str) -> str:
    count, size, sha256 = _measure(folder, pin)
    where = f"{pin.path} of {repository} at {commit[:12]}"
    if not count:
        return f"{where} does not exist: {table} names a wrong path or commit."
    return (
        f"{where} is not what {table} says: {count:,} file(s) of {size:,} bytes with SHA-256 {sha256}, "
        f"not {pin.count:,} of {pin.bytes:,} with {pin.sha256}. Remove {folder} and run again; if it stays "
        "so, the table is wrong."
    )
