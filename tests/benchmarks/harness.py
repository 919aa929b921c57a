"""Measure two sides of a benchmark in turn, each in a process of its own, and append the figures to a tidy CSV.

A side is a command. It may print lines of the form `RESULT {"metric": number, ...}`; `seconds` among them replaces the
wall-clock time of the whole process, for a side that should not count its own start.
"""

import csv
import json
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

FIELDS = ["benchmark", "side", "peer", "metric", "value", "unit"]


def draw_rows(corpus: str, count: int, folder: Path) -> list[dict[str, str]]:
    """`count` rows of a corpus, equally from each of its subsets, in a seeded order; `folder` is for files."""
    import pandas as pd

    from lib.corpus import selection

    selection.select(corpus, folder / "selected" / "rows.parquet")
    found = selection.read(folder / "selected" / "rows.parquet", columns=["subset_name", "input", "output"])
    each = -(-count // found["subset_name"].nunique())
    drawn = pd.concat(part.sample(min(each, len(part)), random_state=0) for _, part in found.groupby("subset_name"))
    return drawn.sample(frac=1, random_state=0).to_dict("records")


def measure(argv: Sequence[str]) -> dict[str, float]:
    """Run one command and return what it reported, with `seconds` (wall) and `peak_mib` (of it and its children).

    Raises RuntimeError with the end of the command's output when it fails.
    """
    # The peak of all children of one process never falls, so each side is waited for on its own with wait4.
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed with {process.returncode}:\n{output[-2000:]}")
    bytes_a_unit = 1 if os.uname().sysname == "Darwin" else 1024
    found = {"seconds": seconds, "peak_mib": usage.ru_maxrss * bytes_a_unit / 2**20}
    for line in output.splitlines():
        if line.startswith("RESULT "):
            found |= json.loads(line.removeprefix("RESULT "))
    return found


def compare(
    name: str, ours: Sequence[str], peer: Sequence[str], repeats: int = 3
) -> tuple[dict[str, float], dict[str, float]]:
    """Run both commands `repeats` times, taking turns in who goes first; return each side's medians, ours first."""
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for turn in range(repeats):
        sides = [("ours", ours), ("peer", peer)]
        for side, argv in sides if turn % 2 == 0 else sides[::-1]:
            runs[side].append(measure(argv))
            print(f"{name}, turn {turn + 1} of {repeats}, {side}: {runs[side][-1]['seconds']:.2f} s", flush=True)
    medians = [
        {metric: statistics.median(run[metric] for run in found) for metric in found[0]} for found in runs.values()
    ]
    return medians[0], medians[1]


def record(path: Path, rows: Sequence[tuple[str, str, str, str, float, str]]) -> None:
    """Append rows of (benchmark, side, peer, metric, value, unit) to the CSV at `path`, making it where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(FIELDS)
        writer.writerows(rows)
    for benchmark, side, peer, metric, value, unit in rows:
        print(f"{benchmark}: {side} against {peer}: {metric} = {value:.4g} {unit}")
