"""`make preference`, for real and in small: a run, votes on it, and the report of both."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_votes

ROOT = Path(__file__).resolve().parent.parent
PROFILE = """\
scale = 0.01

[corpus]
source = "demo"

[english]
source = "demo"
rows = 1_000

[model]
base_model = "demo"

[training]
epochs = 1.0

[evaluation]
decoding_runs = 1
max_new_tokens = 16
f1_tokens = 16
batch_rows = 8

[preference]
learning_rate = 1e-3
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the repository with a run that is finished."""
    made = tmp_path_factory.mktemp("preference")
    shutil.copy(ROOT / "Makefile", made)
    for name in ("lib", "notebooks", "reports/published", "webapp"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    (made / "notebooks/parameters/small.toml").write_text(PROFILE)
    make(made, "report", "PROFILE=small", "RUN=trial")
    return made


def make(folder: Path, *arguments: str, fails: bool = False) -> str:
    """What make says, on both outputs."""
    done = subprocess.run(
        ["make", f"PY={sys.executable}", *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "KLEPON_"))}
        | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1_200,
        check=False,
    )
    assert (done.returncode != 0) == fails, (done.stdout + done.stderr)[-3_000:]
    return done.stdout + done.stderr


def files(folder: Path) -> dict[str, tuple[str, int]]:
    """What is there of the run, by content and time."""
    found = [p for where in ("artifacts/trial", "reports/trial") for p in (folder / where).rglob("*") if p.is_file()]
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in found
        if path.name not in ("lock", "asked.json", "todo", "make.log")
    }


def test_votes_make_a_model_of_their_own_which_the_report_shows(folder, tmp_path):
    told = small_votes.write(tmp_path / "votes.jsonl", [small_votes.vote(n) for n in range(30)])
    before = files(folder)
    page = (folder / "reports/trial/report.html").read_text()
    assert "votes" not in page

    made = make(folder, "preference", "RUN=trial", f"VOTES={told}")
    assert re.findall(r"^(\d_\w+)", made, re.MULTILINE) == ["6_preference", "5_report"], "no stage of the run"
    after = files(folder)
    kept = ("artifacts/trial/final_adapter/", "artifacts/trial/scores/", "reports/trial/results.csv")
    for name in before:
        if name.startswith(kept):
            assert after[name][0] == before[name][0], name
    record = json.loads((folder / "artifacts/trial/adapters/preference_seed0/klepon.json").read_text())
    assert record["votes"] == {
        "sha256": hashlib.sha256(told.read_bytes()).hexdigest(),
        "trained on": 24,
        "held out": 6,
    }
    page = (folder / "reports/trial/report.html").read_text()
    assert "<h2>What people's votes changed</h2>" in page
    assert "Of 30 votes, 24 were trained on and 6 held out" in page
    assert "In 6 of 6 held-out votes the chosen answer became likelier" in page
    assert "So what the other votes taught holds for these." in page

    make(folder, "preference", "RUN=trial", f"VOTES={told}")
    assert files(folder) == after, "a second make has nothing to do"
    assert make(folder, "report", "PROFILE=small", "RUN=trial").count("_") == 0


def test_what_cannot_be_trained_on_is_one_sentence_and_changes_nothing(folder, tmp_path):
    before = files(folder)
    few = small_votes.write(tmp_path / "few.jsonl", [small_votes.vote(n) for n in range(29)])
    said = make(folder, "preference", "RUN=trial", f"VOTES={few}", fails=True)
    assert "error: there are 29 votes, and it takes 30 (preference.least_votes)" in said
    assert "Traceback" not in said
    said = make(folder, "preference", "RUN=trial", fails=True)
    assert "error: nobody has voted in the chat of run 'trial' yet: `make chat RUN=trial`" in said
    said = make(folder, "preference", "RUN=other", fails=True)
    assert "error: the run 'other' has no manifest.json yet" in said
    assert files(folder) == before
