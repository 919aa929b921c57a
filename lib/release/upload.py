"""A finished run to the hub: adapter, cards, report and scores, in one commit, and only after confirmation.

What is uploaded holds no path of the machine that made it: PEFT and transformers write some into an adapter's folder.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from lib import hub, lock
from lib.config import run_name
from lib.model import loading
from lib.paths import ADAPTER_RECORD, RunPaths
from lib.release import cards, finished
from lib.release.finished import Finished
from lib.storage import write_json


class UploadError(ValueError):
    """Nothing was uploaded; the message says why, and what to do."""


def stage(run: Finished, repository: str, folder: Path) -> list[Path]:
    """Put what is to be uploaded into an empty folder, as it will be in the repository; return the files in order."""
    files, base = run.config.paths, run.manifest["base_model"]["source"]
    shutil.copytree(files.final_adapter, folder, dirs_exist_ok=True)
    (folder / "README.md").write_text(cards.model_card(run, here=repository), encoding="utf-8")
    (folder / cards.DATA_CARD).write_text(cards.data_card(run), encoding="utf-8")
    shutil.copy(files.report, folder)
    shutil.copy(files.results, folder)
    shutil.copy(files.summary, folder)
    write_json(folder / files.manifest.name, cards.public(run.manifest))
    named, _, commit = cards.public_name(base).partition("@")
    _change(folder / "adapter_config.json", base_model_name_or_path=named, revision=commit or None)
    _change(folder / ADAPTER_RECORD, base_model=cards.public_name(base))
    notice = cards.licence_of(run).notice
    if notice:
        (folder / "NOTICE").write_text(notice, encoding="utf-8")
        for text in ("LICENSE.txt", "LICENSE", "USE_POLICY.md"):
            path = loading.base_model_folder(run.config.model) / text
            if path.is_file():
                shutil.copy(path, folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _change(path: Path, **values: str | None) -> None:
    if path.is_file():
        write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)


def publish(run: Finished, repository: str, private: bool, yes: bool) -> str | None:
    """Say what would be uploaded, ask, and upload it.

    Args:
        private: whether a new repository is private; an existing one stays as it is.
        yes: do not ask.

    Returns:
        The address of the commit, or None where the answer was no.

    Raises:
        UploadError: if the hub does not take it, or cannot be reached; then nothing was uploaded.
    """
    _require_name(run, repository)
    if constants.HF_HUB_OFFLINE:
        raise UploadError("HF_HUB_OFFLINE is set, which keeps everything off the network: unset it to publish")
    token = get_token()
    if not token:
        raise UploadError(
            "HF_TOKEN is not set: create a token with write access on "
            f"{constants.ENDPOINT}/settings/tokens, and set HF_TOKEN to it"
        )
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    with _told(repository):
        account = api.whoami()["name"]
        try:
            there = bool(api.model_info(repository).private)
        except RepositoryNotFoundError:
            there = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = stage(run, repository, folder)
        print(_told_beforehand(repository, account, private, there, folder, files))
        if not (yes or _asked()):
            return None
        with _told(repository):
            if there is None:
                api.create_repo(repository, private=private)
            commit = api.create_commit(
                repository,
                [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in files],
                commit_message=f"Klepon's run {run.config.run}",
            )
    return str(commit.commit_url)


def _require_name(run: Finished, repository: str) -> None:
    if not repository:
        raise UploadError(f"REPO names no repository: make publish RUN={run.config.run} REPO=owner/name")
    if not hub.is_name(repository) or "@" in repository:
        raise UploadError(f"REPO={repository} is not a hub id: make publish RUN={run.config.run} REPO=owner/name")
    owner, _, name = repository.partition("/")
    licence = cards.licence_of(run)
    if licence.llama and not name.startswith("Llama"):
        raise UploadError(
            f"REPO={repository}: the {licence.name} requires a name that begins with Llama: "
            f"make publish RUN={run.config.run} REPO={owner}/{cards.name(run)}"
        )


def _told_beforehand(
    repository: str, account: str, private: bool, there: bool | None, folder: Path, files: list[Path]
) -> str:
    """What will be uploaded, where to, and who will see it."""
    kind = "private" if (private if there is None else there) else "PUBLIC"
    which = f"a new {kind} repository" if there is None else f"an existing {kind} repository"
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    width = max(map(len, sizes))
    lines = [f"To {constants.ENDPOINT}/{repository}, {which}, as {account}:"]
    lines += [f"  {name:<{width}}  {size:>13,} bytes" for name, size in sizes.items()]
    lines.append(f"  {len(sizes)} files, {sum(sizes.values()):,} bytes")
    return "\n".join(lines)


def _asked() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Upload this? [y/N] ").strip().lower() in ("y", "yes")


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """Turn what the hub refuses into a message for the person who publishes."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        raise UploadError(f"nothing was published to {repository}: {_why(repository, error)}") from error


def _why(repository: str, error: BaseException) -> str:
    # The client wraps what happens to a large file.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    owner = repository.partition("/")[0]
    where = constants.ENDPOINT
    if status == 401:
        return f"{where} rejects this token (401). Create another on {where}/settings/tokens and set HF_TOKEN to it"
    if status == 403:
        return (
            f"{where} does not let this token write there (403). It needs the role `write`, and its account must be "
            f"{owner} or a member of it that may write"
        )
    if status == 429:
        return f"{where} asks for fewer requests (429). Wait a few minutes and run again"
    reason = hub.first_line(cause)
    if status:
        return f"{where} answers {status} ({reason})"
    if isinstance(cause, ValueError) and not isinstance(cause, OSError):
        return f"{where} does not accept it ({reason})"
    return f"{where} cannot be reached, or the connection broke off ({reason}). Check the network and run again"


def main() -> None:
    """Publish a run on the hub. `make publish` calls this."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--repository", default="")
    parser.add_argument("--private", default="1")
    parser.add_argument("--yes", default="")
    given = parser.parse_args()
    try:
        if given.private not in ("0", "1"):
            raise UploadError(f"PRIVATE={given.private} must be 1, or 0 for a repository that everybody can see")
        with lock.held(RunPaths(run_name(given.run))):
            address = publish(finished.read(given.run), given.repository, given.private == "1", given.yes == "1")
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    if address is None:
        raise SystemExit("Nothing was uploaded. To upload this, set YES=1.")
    print(f"Published: {address}")


if __name__ == "__main__":
    main()
