"""Data sets and models from the hub: pinned to one commit, resumable, and with a clear message for what goes wrong.

A name is `owner/name`, or `owner/name@revision` for a branch, a tag or a commit. The hub's own settings apply: HF_HOME,
HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. This module is imported only where a name is not a file or folder.
"""

import json
import os
import re
from collections.abc import Callable, Collection
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import pyarrow.parquet as pq
from filelock import FileLock
from huggingface_hub import HfApi, HfFileSystem, constants, hf_hub_download, set_client_factory, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils._http import default_client_factory

from lib import paths
from lib.storage import full_disk, write_json

# A download by Xet may stall for ever (issues 850 and 883 of huggingface/xet-core). Over plain HTTP it goes on where it
# stopped, and ends with an error when no byte has come for a minute: six times HF_HUB_DOWNLOAD_TIMEOUT.
if "HF_HUB_DISABLE_XET" not in os.environ:
    constants.HF_HUB_DISABLE_XET = True

SILENCE_SECONDS = 60.0
"""So long the hub may say nothing before a request ends in an error."""


def _client() -> httpx.Client:
    """The hub's own client, which would wait for ever for an answer from its API."""

    def limit(request: httpx.Request) -> None:
        given = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            wait: given.get(wait) or SILENCE_SECONDS for wait in ("connect", "read", "write", "pool")
        }

    client = default_client_factory()
    client.event_hooks = {"request": [*client.event_hooks["request"], limit]}
    return client


set_client_factory(_client)

Kind = Literal["dataset", "model"]
KINDS = {"dataset": "data set", "model": "model"}
#: What a model's folder needs: no second copy of the weights in another format.
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt")
NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")


class HubError(ValueError):
    """Something cannot be fetched from the hub; the message says why, and what to do."""


def is_name(text: str) -> bool:
    """Whether a text can be a name on the hub. The caller should prefer a path that exists."""
    return NAME.fullmatch(text) is not None


def commit(kind: Kind, name: str) -> str:
    """The commit (40 hex digits) at which this checkout reads a repository of the hub.

    A branch or a tag is looked up once and kept in artifacts/hub.json: later stages and runs read the same commit, even
    if it has moved since. To read another, name it: `owner/name@revision`.

    Raises:
        HubError: if it cannot be fetched.
    """
    return str(_record(kind, name)["commit"])


def _repository(name: str) -> tuple[str, str | None]:
    """Repository and revision of a name."""
    found = NAME.fullmatch(name)
    assert found, f"{name!r} is not a name on the hub: ask is_name first"
    return found[1], found[2]


def pinned(kind: Kind, name: str) -> str:
    """The name with the commit at which it is read, `owner/name@commit`: the same files for everybody."""
    return f"{_repository(name)[0]}@{commit(kind, name)}"


def model(name: str) -> Path:
    """The folder of a model, complete. What an earlier call fetched is not fetched again, even if it was cut off.

    Raises:
        HubError: if it cannot be fetched.
    """
    return Path(_snapshot("model", name, MODEL_FILES))


def model_config(name: str) -> dict[str, Any]:
    """A model's config.json, fetched alone.

    Raises:
        HubError: if it cannot be fetched.
    """
    at = commit("model", name)
    with _told("model", name):
        path = hf_hub_download(_repository(name)[0], "config.json", revision=at)
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))


def model_to_fetch(name: str) -> int:
    """How many bytes of a model are still to be fetched.

    Raises:
        HubError: if the hub cannot be asked.
    """
    return _to_fetch("model", name, MODEL_FILES)


def dataset_to_fetch(name: str, patterns: Collection[str], asked: str) -> int:
    """How many bytes of a data set are still to be fetched: at most, until `dataset` has seen which files it needs.

    Raises:
        HubError: if the hub cannot be asked.
    """
    return _to_fetch("dataset", name, patterns, _record("dataset", name).get(asked, {}))


def _to_fetch(kind: Kind, name: str, patterns: Collection[str], but: Collection[str] = ()) -> int:
    files = _snapshot(kind, name, patterns, but, dry_run=True)
    return sum(file.file_size or 0 for file in files if file.will_download)


def dataset(
    name: str, patterns: Collection[str], asked: str, needed: Callable[[pq.ParquetFile], bool]
) -> tuple[dict[str, Path], dict[str, int]]:
    """The files of a data set that match one of the patterns and are needed, complete.

    A parquet file whose footer shows that it is not needed is not fetched: only its end is. What the footers showed
    is kept under `asked`, which distinguishes one use of the data set from another.

    Returns:
        The files by their names in the data set, and the rows of each file that was not fetched.

    Raises:
        HubError: if it cannot be fetched.
    """
    at = commit("dataset", name)

    def without() -> dict[str, int]:
        repository, files = _repository(name)[0], HfFileSystem()
        rows = {}
        for path in HfApi().list_repo_files(repository, repo_type="dataset", revision=at):
            if path.endswith(".parquet"):
                with (
                    files.open(f"datasets/{repository}@{at}/{path}", block_size=1 << 20) as file,
                    pq.ParquetFile(file) as parquet,
                ):
                    if not needed(parquet):
                        rows[path] = parquet.metadata.num_rows
        return rows

    unread = _record("dataset", name, asked, without)[asked]
    folder = Path(_snapshot("dataset", name, patterns, unread))
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {path: file for path, file in found.items() if path not in unread}, unread


def _record(kind: Kind, name: str, key: str = "", find: Callable[[], Any] | None = None) -> dict[str, Any]:
    """What is known of a repository: its `commit`, and under `key` what `find` returns. Each is looked up once."""
    path = paths.ROOT / "artifacts" / "hub.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several notebooks may ask at once.
    with FileLock(path.with_name(".hub.lock")):
        known = json.loads(path.read_text()) if path.is_file() else {}
        record = known.setdefault(f"{KINDS[kind]} {name}", {})
        before = len(record)
        if "commit" not in record:
            repository, revision = _repository(name)
            with _told(kind, name):
                whole = re.fullmatch("[0-9a-f]{40}", revision or "")
                record["commit"] = (
                    revision if whole else HfApi().repo_info(repository, repo_type=kind, revision=revision).sha
                )
        if find and key not in record:
            with _told(kind, name):
                record[key] = find()
        if len(record) > before:
            write_json(path, known)
        return record


def _snapshot(
    kind: Kind, name: str, patterns: Collection[str], but: Collection[str] = (), *, dry_run: bool = False
) -> Any:
    """The folder of the files that match a pattern, without those named in `but`; dry: what would be fetched."""
    at = commit(kind, name)
    with _told(kind, name):
        return snapshot_download(
            _repository(name)[0],
            repo_type=kind,
            revision=at,
            allow_patterns=list(patterns),
            # The names as patterns that match nothing else.
            ignore_patterns=[re.sub(r"([\[*?])", r"[\1]", path) for path in but],
            dry_run=dry_run,
        )


@contextmanager
def _told(kind: Kind, name: str) -> Any:
    """Turn what goes wrong on the hub into a message for the person who runs the report."""
    try:
        yield
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise HubError(f"the {KINDS[kind]} {name!r} could not be fetched from {_why(kind, name, error)}") from error


def _why(kind: Kind, name: str, error: Exception) -> str:
    hub, owner_and_name = constants.ENDPOINT, name.partition("@")[0]
    if full := full_cache(error):
        return f"{hub}: {full}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        mirror = f"unsloth/{owner_and_name.partition('/')[2]}"
        other = f", or take the ungated mirror {mirror}" if owner_and_name.startswith("meta-llama/") else ""
        page = f"{hub}/{'datasets/' * (kind == 'dataset')}{owner_and_name}"
        return f"{hub}: it is gated. Accept its licence on {page} and set HF_TOKEN to a token of that account{other}"
    if isinstance(error, RevisionNotFoundError):
        return f"{hub}: it has no such revision. Check what follows the @"
    if isinstance(error, RepositoryNotFoundError):
        return f"{hub}: it has none of this name that HF_TOKEN may read. Check the name, and HF_TOKEN if it is private"
    if status in (401, 403):
        return f"{hub}: it answers {status}. Set HF_TOKEN to a token that may read it"
    if status == 429:
        return (
            f"{hub}: it asks for fewer requests (429). Wait a few minutes and run again: what was fetched is kept. "
            "With HF_TOKEN set, more are allowed"
        )
    if constants.HF_HUB_OFFLINE:
        return f"{hub}: HF_HUB_OFFLINE is set, and not all of it was downloaded before. Run once without it"
    reason = first_line(error)
    return f"{hub} ({reason}). Check the network and run again: what was fetched is kept"


def full_cache(error: BaseException) -> str | None:
    """A sentence on the disk of the hub's cache, if an error says that it is full."""
    return full_disk(str(error), Path(constants.HF_HUB_CACHE))


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
