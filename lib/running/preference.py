"""A finished run's final adapter, trained further on people's votes and scored; then the report, which shows it.

    python -m lib.running.preference --run=demo --votes=klepon-votes.jsonl

`make preference` calls this. Without a file, the votes are those in the database of the run's chat.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from lib import lock, paths
from lib.config import STAGES, run_name
from lib.paths import RunPaths
from lib.preference import outcome, votes
from lib.release import finished
from lib.running.graph import adapter_files
from lib.storage import write_if_changed

_MAKE = ("make", "--silent", "--no-print-directory")


def settle(files: RunPaths, given: str) -> Path:
    """Write the votes and what else the training depends on, where they have changed, for make to compare.

    Args:
        given: a file of votes; those of the run's chat where empty.

    Returns:
        The executed notebook, which make brings up to date; removed where a file of the adapter that it made is gone.

    Raises:
        FinishedError: if the run is not finished.
        VotesError: if the votes cannot be read, or are too few.
    """
    found = finished.read(files.run)
    config = outcome.after(found.config)
    path = Path(paths.located(given)) if given else _of_the_chat(files)
    votes.require(len(votes.read(path)), config)
    text = path.read_text(encoding="utf-8")
    write_if_changed(files.votes, text)
    settings = {
        "final_adapter": found.adapter,
        "votes": {"sha256": hashlib.sha256(text.encode()).hexdigest()},
        **{section: asdict(getattr(config, section)) for section in STAGES["preference"]},
    }
    write_if_changed(files.preference_settings, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    notebook = files.reports / "6_preference.ipynb"
    if not all(path.is_file() for path in adapter_files(files.adapter(config.name))):
        notebook.unlink(missing_ok=True)
    return notebook


def _of_the_chat(files: RunPaths) -> Path:
    """Have the site export all its votes to a file."""
    home = Path(__file__).resolve().parents[2]
    state = os.environ.get("KLEPON_CHAT") or str(files.chat)
    if not os.environ.get("DATABASE_URL") and not Path(state, "chat.sqlite3").is_file():
        raise votes.VotesError(
            f"nobody has voted in the chat of run {files.run!r} yet: `make chat RUN={files.run}`, compare answers and "
            "vote there, or name a file of votes with VOTES=file.jsonl"
        )
    told = {"PYTHONPATH": str(home / "webapp"), "DJANGO_SETTINGS_MODULE": "klepon.settings", "KLEPON_CHAT": state}
    path = files.votes.with_name("exported.jsonl")
    command = [sys.executable, "-m", "django", "votes", str(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, env=os.environ | told, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise votes.VotesError(f"the chat's votes cannot be exported ({why}): name their file with VOTES=file.jsonl")
    return path


def main() -> None:
    """Train a finished run's final adapter further on votes, score it, and bring the report up to date."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--votes", default="", help="a file of votes; without it, those of the run's chat")
    given = parser.parse_args()
    try:
        files = RunPaths(run_name(given.run))
        # Whatever stops names the command that goes on.
        os.environ["VOTES"] = given.votes
        with lock.held(files):
            notebook = settle(files, given.votes)
            target = str(notebook.relative_to(paths.ROOT))
            status = subprocess.run([*_MAKE, target, f"RUN={files.run}"], cwd=paths.ROOT, check=False).returncode
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        again = RunPaths(given.run).preference_command(given.votes)
        raise SystemExit(f"\nstopped: `{again}` begins it anew") from None
    if status:
        raise SystemExit(1)
    # The page has a section on it, and is older. Nothing else is made again that is up to date.
    os.execvp("make", [*_MAKE, *shlex.split(files.command)[1:]])


if __name__ == "__main__":
    main()
