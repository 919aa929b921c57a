"""Is one run a reproduction of another? Number by number, from the files that a run publishes.

A number should be within what the other run's could have come out as. On the same test rows that hangs on the training
seed, on decoding and on rounding, but not on the draw of the test groups: the intervals of a report cover that draw,
and would let a training pass that does half as much. So on the same rows an interval is for one more seed or one more
decoding, by Student's t. On other rows, and where a single seed leaves that unknown, it is the report's times the
square root of 2, since the rows of both runs are drawn.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from lib import paths
from lib.config import ConfigError, run_name
from lib.evaluation import completions, floors, metrics
from lib.evaluation.benchmarks import METRIC_NAMES as BENCHMARK_METRICS
from lib.release import cards
from lib.report import drawing, look, plots
from lib.storage import FullDiskError, whole

_TYPES = {"iteration": str, "seed": int, "protocol": str, "decoding_run": int, "metric": str, "value": float}
_NAMES = BENCHMARK_METRICS | metrics.METRIC_NAMES
_NUMBER = ["iteration", "protocol", "metric"]
# Their test rows come from the corpus; those of a benchmark are the same in every run.
_OF_THE_CORPUS = (*completions.PROTOCOLS, "english")
#: No interval is narrower on either side than this share of the number. In the demo, 16 bits instead of 32 move a loss
#: by 0.02 %, and another training seed by up to 0.5 %.
ROUNDING = 0.01
# Names and times say nothing of what a run is.
_LEFT_OUT = ("run", "stages")
_BAR: dict[str, Any] = {"color": drawing.OTHER_COLOUR, "linewidth": 7, "alpha": 0.35}
_STROKE: dict[str, Any] = {"marker": "|", "color": drawing.OTHER_COLOUR, "markersize": 11, "linestyle": "none"}


class ReproductionError(ValueError):
    """Two runs that cannot be compared; the message says why, and what to do."""


def read(path: Path) -> pd.DataFrame:
    """The numbers of a results.csv, and their intervals from the summary.csv beside it where there is one.

    Returns:
        One line per iteration, seed, protocol and metric: these, `mean`, `sd` and `runs` of the decoding runs, and
        `low` and `high`, the 95 % interval over test groups (`statistics.summarise`), or NaN.

    Raises:
        ReproductionError: if the file is not there, or not a results.csv.
    """
    if not path.is_file():
        raise ReproductionError(f"there is no file {path}: name the results.csv of a finished run")
    try:
        results = pd.read_csv(path, usecols=list(_TYPES), dtype=_TYPES)
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise ReproductionError(f"{path} is not the results.csv of a run: {reason}") from None
    key = [*_NUMBER, "seed"]
    found = results.groupby(key, sort=False)["value"].agg(mean="mean", sd="std", runs="size").reset_index()
    summary = path.with_name("summary.csv")
    if not summary.is_file():
        return found.assign(low=np.nan, high=np.nan)
    return found.merge(pd.read_csv(summary, dtype={"iteration": str})[[*key, "low", "high"]], on=key, how="left")


def same_rows(theirs: pd.DataFrame, mine: pd.DataFrame) -> bool:
    """Whether two runs (tables of `read`) tested the same rows of a corpus: echoed prompts then score the same."""
    echoes = theirs.merge(mine, on=_NUMBER)
    echoes = echoes[echoes["iteration"] == "echo"]
    return len(echoes) > 0 and bool(np.allclose(echoes["mean_x"], echoes["mean_y"], rtol=1e-6))


def compare(theirs: pd.DataFrame, mine: pd.DataFrame) -> pd.DataFrame:
    """Every number of a model that both runs have (tables of `read`), beside where the other run's could have been.

    Each of my seeds is compared with all of theirs. Floors and ceiling are of no model.

    Returns:
        iteration, protocol, metric, seed (mine); `theirs`, of the same seed or else the mean of their seeds; `low`,
        `high` and `over`, what this interval covers (seeds, decoding, rounding, test groups or, if it is NaN, nothing);
        `mine`; `verdict` (inside, outside or unknown); and `primary`, for losses per byte on rows that were kept apart.

    Raises:
        ReproductionError: if they have no number in common.
    """
    same, known, lines = same_rows(theirs, mine), dict(list(theirs.groupby(_NUMBER, sort=False))), []
    for row in _of_models(mine).itertuples():
        number = (row.iteration, row.protocol, row.metric)
        if number not in known:
            continue
        own = known[number]
        low, high, over = _interval(own, row, same or row.protocol not in _OF_THE_CORPUS)
        beside = own[own["seed"] == row.seed] if row.seed in set(own["seed"]) else own
        theirs_of_it = beside["mean"].mean()
        inside = low <= row.mean <= high or np.isclose(row.mean, theirs_of_it)
        verdict = "inside" if inside else "unknown" if np.isnan(low) else "outside"
        primary = row.metric == "loss_per_byte" and row.protocol != "paper"
        lines.append((*number, row.seed, theirs_of_it, low, high, over, row.mean, verdict, primary))
    if not lines:
        raise ReproductionError(
            f"the two runs have no number in common: theirs has {_listed(theirs)}, mine has {_listed(mine)}"
        )
    columns = ["seed", "theirs", "low", "high", "over", "mine", "verdict", "primary"]
    return pd.DataFrame(lines, columns=[*_NUMBER, *columns])


def _interval(own: pd.DataFrame, mine: Any, same: bool) -> tuple[float, float, str]:
    """Where the other run's number (one line per seed) could have come out, seen from a line of mine, and over what.

    Args:
        same: whether both are of the same rows.
    """
    means, one = own["mean"], own.iloc[0]
    # Where another seed trained, one of theirs says nothing of how far that moves a number.
    alike = same and (drawing.is_base(mine.iteration) or mine.seed == one["seed"])
    if same and len(own) > 1:
        over, half = "seeds", stats.t.ppf(0.975, len(own) - 1) * means.std() * (1 + 1 / len(own)) ** 0.5
    elif alike and one["runs"] > 1:
        error = one["sd"] * (1 / one["runs"] + 1 / mine.runs) ** 0.5
        over, half = "decoding", stats.t.ppf(0.975, one["runs"] - 1) * error
    elif alike and mine.metric not in metrics.OF_COMPLETIONS:
        over, half = "rounding", 0.0
    else:
        low, high = means - 2**0.5 * (means - own["low"]), means + 2**0.5 * (own["high"] - means)
        return low.min(), high.max(), "nothing" if low.isna().all() else "test groups"
    half = max(half, ROUNDING * abs(means.mean()))
    return min(means.mean() - half, means.min()), max(means.mean() + half, means.max()), over


def missing(theirs: pd.DataFrame, mine: pd.DataFrame) -> list[str]:
    """The models and protocols that only one of two runs has (tables of `read`): a line for each model."""
    there = {
        whose: dict.fromkeys(zip(table["iteration"], table["protocol"], strict=True))
        for whose, table in (("theirs", _of_models(theirs)), ("mine", _of_models(mine)))
    }
    said = []
    for whose, other in (("theirs", "mine"), ("mine", "theirs")):
        alone = [key for key in there[whose] if key not in there[other]]
        for model in dict.fromkeys(iteration for iteration, _ in alone):
            protocols = ", ".join(protocol for iteration, protocol in alone if iteration == model)
            said.append(f"Only in {whose}: {drawing.words(model)} ({protocols})")
    return said


def differences(theirs: dict[str, Any], mine: dict[str, Any]) -> pd.DataFrame:
    """The settings, versions, fingerprints and devices in which two manifests differ: what, theirs, mine."""
    one, other = (
        pd.json_normalize({name: value for name, value in made.items() if name not in _LEFT_OUT}).iloc[0].to_dict()
        for made in (theirs, mine)
    )
    every = [(name, one.get(name, "-"), other.get(name, "-")) for name in dict.fromkeys((*one, *other))]
    return pd.DataFrame([line for line in every if line[1] != line[2]], columns=["what", "theirs", "mine"])


def figure(table: pd.DataFrame) -> Figure:
    """Each number of `compare`: where theirs could have come out as a bar, theirs as a stroke, mine as a point.

    A panel for each metric, and in it a line for each model and protocol. All are drawn from the middle of the bar,
    since far less is between the runs than between base and adapter.
    """
    middle = table[["low", "high"]].mean(axis=1).fillna(table["theirs"])
    table = table.assign(**{name: table[name] - middle for name in ("low", "high", "theirs", "mine")})
    panels = [(str(metric), part) for metric, part in table.groupby("metric", sort=False)]
    lines = [list(dict.fromkeys(zip(part["iteration"], part["protocol"], strict=True))) for _, part in panels]
    tall = [max(map(len, lines[n : n + 2])) for n in range(0, len(lines), 2)]
    made, axes = drawing.axes(
        len(tall), 2, drawing.WIDE, sum(0.9 + 0.26 * most for most in tall), height_ratios=[3 + most for most in tall]
    )
    for axis, (metric, part), names in zip(axes.flat, panels, lines, strict=False):
        for row in part.itertuples():
            place = names.index((row.iteration, row.protocol))
            axis.hlines(place, row.low, row.high, **_BAR)
            axis.plot(row.theirs, place, **_STROKE)
            axis.plot(row.mine, place, markersize=5.5, clip_on=False, **_point(row.iteration, row.verdict))
        labels = [f"{drawing.label(iteration)}, {protocol}" for iteration, protocol in names]
        axis.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.4, -0.6))
        axis.set_xlabel(f"{_NAMES.get(metric, metric)}, from the middle of the bar")
        axis.grid(axis="x", visible=True)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    handles = [
        Line2D([], [], label="where theirs could have come out", **_BAR),
        Line2D([], [], label="theirs", **_STROKE),
        Line2D([], [], label="mine: base", **_point("base", "inside")),
        Line2D([], [], label="mine: adapters", **_point("adapter", "inside")),
        Line2D([], [], label="outside", **_point("adapter", "outside")),
    ]
    drawing.legend(made, handles, 5)
    return made


def _point(iteration: str, verdict: str) -> dict[str, Any]:
    return drawing.marker(iteration) | ({"marker": "X"} if verdict == "outside" else {})


def conclusion(table: pd.DataFrame) -> tuple[bool, str]:
    """Whether every primary outcome of `compare` that has an interval is inside, and a sentence that says so.

    Raises:
        ReproductionError: if none has an interval.
    """
    primary = table[table["primary"]]
    judged = primary[primary["verdict"] != "unknown"]
    if judged.empty:
        raise ReproductionError(
            "no primary outcome (loss_per_byte, on rows kept apart) can be judged: put the other run's summary.csv "
            "beside its results.csv, or train one of its seeds on its corpus"
        )
    outside, unknown = (primary[primary["verdict"] == name] for name in ("outside", "unknown"))
    others = table[~table["primary"]]
    counts = others["verdict"].value_counts()
    more = f" Of {len(others)} other numbers {counts.get('outside', 0)} are outside"
    more += f", and {counts['unknown']} are not judged." if "unknown" in counts else "."
    if len(unknown):
        more += f" Without an interval, and not judged: {_outcomes(unknown)}."
    if len(outside):
        return False, f"Not a reproduction: {len(outside)} of {len(judged)} primary outcomes are outside: " + (
            f"{_outcomes(outside)}.{more}"
        )
    return True, f"A reproduction: all {len(judged)} primary outcomes are inside.{more}"


def _outcomes(lines: pd.DataFrame) -> str:
    return "; ".join(
        f"{row.metric} of {look.model_name(row.iteration, row.seed)}, {row.protocol}: {row.mine:.4g}"
        + ("" if row.over == "nothing" else f", not in [{row.low:.4g}, {row.high:.4g}]")
        for row in lines.itertuples()
    )


def _of_models(table: pd.DataFrame) -> pd.DataFrame:
    return table[~table["iteration"].isin([floors.CEILING, *floors.FLOORS])]


def _listed(table: pd.DataFrame) -> str:
    names = dict.fromkeys(drawing.words(name) for name in _of_models(table)["iteration"])
    return f"{', '.join(names) or 'no model'} ({', '.join(dict.fromkeys(table['protocol']))})"


def _shown(table: pd.DataFrame) -> str:
    """The table of `compare` for a terminal; primary outcomes have a star."""
    lines = pd.DataFrame(
        {
            "": np.where(table["primary"], "*", ""),
            "model": [look.model_name(i, s) for i, s in zip(table["iteration"], table["seed"], strict=True)],
            **{name: table[name] for name in ("protocol", "metric")},
            **{name: [f"{value:.4g}" for value in table[name]] for name in ("theirs", "low", "high")},
            "over": table["over"],
            "mine": [f"{value:.4g}" for value in table["mine"]],
            "verdict": table["verdict"],
        }
    )
    return lines.to_string(index=False)


def main() -> None:
    """Compare a run with another's results.csv, and write reports/<run>/compare. `make compare` calls this.

    Exit code 0: a reproduction; 1: none; 2: the two cannot be compared.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--with", dest="other", required=True)
    options = parser.parse_args()
    try:
        reproduced = _tell(paths.RunPaths(run_name(options.run)), options.other)
    except (ReproductionError, ConfigError, FullDiskError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(0 if reproduced else 1)


def _tell(files: paths.RunPaths, other: str) -> bool:
    if not other:
        raise ReproductionError(f"WITH names no run: make compare WITH=reports/example/results.csv RUN={files.run}")
    if not files.results.is_file():
        raise ReproductionError(f"the run {files.run!r} has no results.csv yet: run `{files.command}` first")
    theirs, mine = read(Path(other)), read(files.results)
    table = compare(theirs, mine)
    print(_shown(table))
    rows = "the same" if same_rows(theirs, mine) else "not the same"
    print(f"A star marks a primary outcome. The test rows of the corpus are {rows}.")
    if theirs["low"].isna().all():
        print(f"No summary.csv is beside {other}: what its decoding runs and seeds do not tell is not judged.")
    for line in missing(theirs, mine):
        print(line)
    folder = files.reports / "compare"
    with whole(folder / "compare.csv") as temporary:
        table.to_csv(temporary, index=False)
    manifests = [path.with_name(files.manifest.name) for path in (Path(other), files.results)]
    if all(path.is_file() for path in manifests):
        # A published one names no folder.
        found = differences(*(cards.public(json.loads(path.read_text(encoding="utf-8"))) for path in manifests))
        with whole(folder / "differences.csv") as temporary:
            found.to_csv(temporary, index=False)
        told = "nothing" if found.empty else found.to_string(index=False, max_colwidth=44)
        print("What differs in settings, versions, fingerprints and device:", told, sep="\n")
    else:
        print("What else differs is not known: a run has no manifest.json beside its results.csv.")
    plots.save(figure(table), folder, "compare")
    reproduced, said = conclusion(table)
    print(f"{said}\nTable and figure: {folder.relative_to(paths.ROOT)}")
    return reproduced


if __name__ == "__main__":
    main()
