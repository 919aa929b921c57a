"""The whole report, for real and in small; then once more with a machine that is switched off twice on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from lib.evaluation.metrics import METRICS

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
epochs = 3.0

[evaluation]
decoding_runs = 2
max_new_tokens = 24
f1_tokens = 16
batch_rows = 8
"""
STAGES = [
    "1_sampling_5",
    "2_preprocessing_5",
    "3_training_5_seed0",
    "4_evaluation_5_seed0",
    "4_evaluation_base",
    "5_report",
]

pytestmark = pytest.mark.slow


def start(folder: Path, run: str) -> subprocess.Popen:
    """`make report` in a process group of its own; what it tells goes to <run>.log."""
    with (folder / f"{run}.log").open("a") as log:
        return subprocess.Popen(
            ["make", "report", f"PY={sys.executable}", "PROFILE=small", f"RUN={run}"],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
            # One thread: on a busy machine two of them wait for each other, and a step takes seconds.
            | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(folder: Path, run: str) -> str:
    process = start(folder, run)
    try:
        assert process.wait(timeout=1_800) == 0, (folder / f"{run}.log").read_text()[-3_000:]
    finally:
        kill(process)
    return (folder / f"{run}.log").read_text()


def kill(process: subprocess.Popen) -> None:
    """End make and all that it started, with no time to tidy, and wait until nothing of it is left."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # A kernel has a session of its own: it goes when it finds its parent gone.
    _, left = psutil.wait_procs(family, timeout=30)
    for survivor in left:
        survivor.kill()
    assert not left, "a kernel outlived its parent"


def kill_when(folder: Path, run: str, reached) -> None:
    process = start(folder, run)
    end = time.monotonic() + 1_800
    while not reached():
        assert process.poll() is None, (folder / f"{run}.log").read_text()[-3_000:]
        assert time.monotonic() < end
        time.sleep(0.02)
    kill(process)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the repository with a profile smaller than the demo."""
    made = tmp_path_factory.mktemp("pipeline")
    shutil.copy(ROOT / "Makefile", made)
    for name in ("lib", "notebooks", "reports/published"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    (made / "notebooks/parameters/small.toml").write_text(PROFILE)
    return made


@pytest.fixture(scope="module")
def whole(folder):
    """The reports folder of a run that nothing disturbed."""
    finish(folder, "whole")
    return folder / "reports/whole"


def test_a_run_makes_all_that_it_promises(whole):
    assert sorted(path.stem for path in whole.glob("*.ipynb")) == STAGES
    for name in ("report.html", "results.csv", "summary.csv", "manifest.json"):
        assert (whole / name).stat().st_size > 0
    results = pd.read_csv(whole / "results.csv")
    assert list(results.columns) == ["iteration", "seed", "protocol", "decoding_run", "metric", "value"]
    # Each model: two decoding runs and a likelihood in two protocols, one greedy run, and the likelihood in English.
    # The reference and four floors, of which two are drawn three times, in two protocols.
    of_completions = len(METRICS) - 1
    assert len(results) == 2 * (2 * (2 * of_completions + 1) + of_completions + 1) + 2 * 9 * of_completions
    assert results["value"].notna().all()
    figures = {path.name for path in (whole / "figures").iterdir()}
    for name in (
        "loss_per_byte",
        "bleu",
        "rouge",
        "weighted_f1",
        "leakage",
        "clusters_5",
        "lengths_5",
        "training_5_seed0",
        "leak_worth",
        "nested_bleu",
        "against_published",
    ):
        assert {f"{name}.png", f"{name}.svg"} <= figures
    assert not list(whole.glob("*.partial.ipynb"))


def test_the_second_make_runs_nothing(folder, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    told = finish(folder, "whole")
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    assert told.count("1_sampling_5") == 1


def test_what_was_deleted_is_made_again_by_the_report_alone(folder, whole):
    results, final = whole / "results.csv", folder / "artifacts/whole/final_adapter"
    weights = {path.name: path.read_bytes() for path in final.glob("adapter_model*")}
    before = results.read_bytes()
    results.unlink()
    shutil.rmtree(final)
    told = finish(folder, "whole")
    assert told.count("5_report ·") == 2 and told.count("4_evaluation_base ·") == 1
    assert results.read_bytes() == before
    assert {path.name: path.read_bytes() for path in final.glob("adapter_model*")} == weights
    # With the rights that the umask gives, as all else.
    assert {path.stat().st_mode & 0o777 for path in final.iterdir()} == {results.stat().st_mode & 0o777}


def test_a_run_that_was_killed_twice_ends_the_same(folder, whole):
    run = folder / "artifacts/killed"
    reports = folder / "reports/killed"
    completions = run / "completions/5_seed0_clean.jsonl"
    log = run / "trainings/5_seed0/log.csv"

    kill_when(folder, "killed", lambda: list((run / "trainings").glob("*/checkpoint-*")))
    assert not log.is_file(), "the kill came after the training, not within it"
    assert not (reports / "3_training_5_seed0.ipynb").exists()

    # A line for the settings, then a batch of 8 prompts twice each.
    kill_when(folder, "killed", lambda: lines(completions) >= 1 + 3 * 16)
    assert lines(completions) < lines(folder / "artifacts/whole/completions/5_seed0_clean.jsonl"), "it came too late"
    assert not (reports / "4_evaluation_5_seed0.ipynb").exists()

    told = finish(folder, "killed")
    # What was whole was not made again.
    assert told.count("1_sampling_5 ·") == told.count("2_preprocessing_5 ·") == 1
    assert told.count("3_training_5_seed0 ·") == 2
    # Their first line has the adapter's fingerprint: the training, too, has ended the same.
    assert completions.read_bytes() == (folder / "artifacts/whole/completions/5_seed0_clean.jsonl").read_bytes()
    assert (reports / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
