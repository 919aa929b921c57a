"""How far a mean, and a difference between two models, can be trusted."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lib.config import nearest
from lib.evaluation import metrics

#: The metrics that are a mean over test rows, so that rows have differences of their own.
MEANS_OVER_ROWS = (*metrics.ROUGES, "correct")


class StatisticsError(ValueError):
    """Scores that cannot be compared; the message says why."""


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float, float]:
    """Mean, standard deviation, and the bounds of Student's t interval of the mean.

    With a single value the last three are NaN: one number has no spread.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()), float("nan"), float("nan"), float("nan")
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / len(values) ** 0.5
    return mean, deviation, mean - half, mean + half


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Spread over decoding runs, for each iteration, seed, protocol and metric.

    Args:
        results: tidy, as in results.csv.

    Returns:
        The same keys with `mean`, `sd`, `low`, `high` (95 % of the mean over decoding runs) and `runs`.
    """
    keys = ["iteration", "seed", "protocol", "metric"]
    rows = []
    for key, part in results.groupby(keys, sort=False):
        mean, deviation, low, high = mean_interval(part["value"].to_numpy())
        rows.append([*key, mean, deviation, low, high, len(part)])
    return pd.DataFrame(rows, columns=[*keys, "mean", "sd", "low", "high", "runs"])


def over_seeds(results: pd.DataFrame) -> pd.DataFrame:
    """Spread over training seeds, separated from that over decoding runs, for each iteration, protocol and metric.

    Args:
        results: tidy, as in results.csv.

    Returns:
        The same keys with `mean` (over seeds, of each seed's mean over its decoding runs), `sd`, `low` and `high`
        (95 % of the mean over seeds), `seeds`, and `run_sd`, the mean over seeds of the standard deviation between
        the decoding runs of one seed. With one seed, sd, low and high are NaN; with one run per seed, run_sd is.
    """
    keys = ["iteration", "protocol", "metric"]
    rows = []
    for key, part in summarise(results).groupby(keys, sort=False):
        mean, deviation, low, high = mean_interval(part["mean"].to_numpy())
        rows.append([*key, mean, deviation, low, high, len(part), part["sd"].mean()])
    return pd.DataFrame(rows, columns=[*keys, "mean", "sd", "low", "high", "seeds", "run_sd"])


def paired_bootstrap(
    before: pd.DataFrame,
    after: pd.DataFrame,
    names: Sequence[str] = tuple(metrics.COLUMNS),
    resamples: int = 1000,
    seed: int = 12345,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The difference between two models on the same test rows, and how far it can be trusted (Koehn 2004).

    Rows are the independent unit: a resample draws them with replacement, and a row brings all its decoding runs, of
    both models. A model's score is the mean over its runs of each run's score, as in `summarise`, and a run's score
    comes from the summed columns of its rows. Trainings from several seeds can be taken together as more runs: the
    result then holds for these trainings, over test rows.

    With one run and sacreBLEU's default seed, which is the default here, the resamples are those of sacreBLEU's own
    PairedTest. Its p-value is given beside ours, and is about half of it or less: it centres absolute values, which
    leaves one side of the distribution, so that without a difference it falls below 5 % about twice as often as
    it should; and two equal systems get the least p-value that there is. Ours centres the differences, and takes
    absolute values then.

    Args:
        before, after: the long tables of the two models, one line per test row and decoding run: `row`, `run`, and the
            columns that metrics.COLUMNS names for the metrics asked for (as metrics.each makes them, and `correct`).
            Each run must have every row once, and both models the same rows; they may differ in runs.
        names: the metrics, keys of metrics.COLUMNS.
        resamples: how many; memory takes 8 bytes times resamples times test rows.

    Returns:
        For each metric, in the order of `names`:
        `before`, `after`, `difference` (after - before, in the metric's own unit),
        `low`, `high`: its percentile interval over the resamples,
        `p_value`: two-sided, of no difference; `sacrebleu_p_value`: as PairedTest computes it,
        `d_z`: Cohen's d_z, the mean of the rows' differences (of their means over runs) over their standard deviation.
            NaN for what is no mean over rows (BLEU, chrF++, Weighted F1) or where the rows' differences are all equal,
        `standard_errors`: the difference over its standard deviation between resamples, which unlike d_z grows with
            the number of rows; NaN where the resamples are all equal,
        `rows`: the number of test rows.

    Raises:
        StatisticsError: for a name that is not a metric, and for tables that lack a column, a row, a run or a value, or
            that hold different rows.
    """
    unknown = [name for name in names if name not in metrics.COLUMNS]
    if unknown:
        raise StatisticsError(
            f"{unknown[0]!r} is not a metric{nearest(unknown[0], list(metrics.COLUMNS))}; "
            f"the metrics are {', '.join(metrics.COLUMNS)}"
        )
    columns = sorted({column for name in names for column in metrics.COLUMNS[name]})
    rows, values_before = _by_run(before, columns, "before")
    rows_after, values_after = _by_run(after, columns, "after")
    if not np.array_equal(rows, rows_after):
        apart = np.setxor1d(rows, rows_after)
        raise StatisticsError(
            f"the two models must be compared on the same test rows, but {len(apart)} rows are in only one table, "
            f"such as row {apart[0]}: keep the rows that both have"
        )
    times = _times_drawn(len(rows), resamples, seed)
    table = []
    for name in names:
        places = [columns.index(column) for column in metrics.COLUMNS[name]]
        score_before, *drawn_before = _scores(name, values_before[:, :, places], times)
        score_after, *drawn_after = _scores(name, values_after[:, :, places], times)
        # Rounded, so that the order of additions does not make a difference between equal scores.
        difference = round(score_after - score_before, 9)
        drawn = np.round(np.subtract(drawn_after, drawn_before), 9)
        by_row = np.round((values_after.mean(axis=0) - values_before.mean(axis=0))[:, places[0]], 9)
        low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
        table.append(
            {
                "metric": name,
                "before": score_before,
                "after": score_after,
                "difference": difference,
                "low": low,
                "high": high,
                "p_value": _share(np.abs(drawn - drawn.mean()) >= abs(difference)),
                "sacrebleu_p_value": _share(np.abs(drawn) - np.abs(drawn).mean() > abs(difference)),
                "d_z": _ratio(by_row.mean(), by_row) if name in MEANS_OVER_ROWS else float("nan"),
                "standard_errors": _ratio(difference, drawn),
                "rows": len(rows),
            }
        )
    return pd.DataFrame(table)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted by Holm's step-down method (1979), in the order given: compare them with the level itself.

    The k-th smallest of m is multiplied by m - k + 1, and none is left smaller than one that was smaller before. The
    chance of even one false finding stays below the level, however the tests depend on each other.

    Raises:
        StatisticsError: for a value that is not a probability.
    """
    found = np.asarray(p_values, dtype=float)
    wrong = found[~((found >= 0) & (found <= 1))]
    if wrong.size:
        raise StatisticsError(f"p-values must be between 0 and 1, and {wrong[0]} is not: leave out what was not tested")
    order = np.argsort(found)
    adjusted = np.empty_like(found)
    adjusted[order] = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    return np.minimum(adjusted, 1)


def _by_run(table: pd.DataFrame, columns: list[str], side: str) -> tuple[np.ndarray, np.ndarray]:
    """The sorted test rows of a long table, and its columns as floats of shape (runs, rows, columns)."""
    missing = [column for column in ("row", "run", *columns) if column not in table]
    if missing:
        raise StatisticsError(
            f"the table {side!r} has no column {missing[0]!r}: metrics.each makes most; add `row`, `run` and `correct`"
        )
    ordered = table.sort_values(["run", "row"])
    rows, runs = np.unique(table["row"]), table["run"].nunique()
    if not runs or not np.array_equal(ordered["row"], np.tile(rows, runs)):
        raise StatisticsError(
            f"the table {side!r} must have every test row once in every decoding run, but has {len(table)} lines of "
            f"{len(rows)} rows and {runs} runs: complete the missing runs, or leave them out"
        )
    values = ordered[columns].to_numpy(dtype=float)
    empty = np.argwhere(np.isnan(values))
    if empty.size:
        raise StatisticsError(
            f"the table {side!r} has {len(empty)} empty values, the first in {columns[empty[0, 1]]!r} of row "
            f"{ordered['row'].iloc[empty[0, 0]]}: score these completions again"
        )
    return rows, values.reshape(runs, len(rows), len(columns))


def _times_drawn(rows: int, resamples: int, seed: int) -> np.ndarray:
    """How often each resample draws each row, (1 + resamples, rows); the first line is no resample but every row once.

    They are drawn as sacreBLEU's PairedTest draws them.
    """
    rng = np.random.default_rng(seed)
    times = np.ones((1 + resamples, rows))
    for line in times[1:]:
        line[:] = np.bincount(rng.choice(rows, size=rows), minlength=rows)
    return times


def _scores(name: str, values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """A metric's mean over runs for each line of `times`, from its columns of shape (runs, rows, columns)."""
    # Sums of counts are whole numbers below 2**53, so that they are exact as floats.
    of_runs = [[metrics.score_of(name, sums, times.shape[1]) for sums in times @ run] for run in values]
    return np.mean(of_runs, axis=0)


def _share(beyond: np.ndarray) -> float:
    """The share of resamples beyond the difference, itself counted as one, so that no p-value is 0."""
    return (int(beyond.sum()) + 1) / (len(beyond) + 1)


def _ratio(value: float, spread: np.ndarray) -> float:
    """A value in standard deviations, or NaN where there is no spread: that of equal values need not come out as 0."""
    return float(value / spread.std(ddof=1)) if np.ptp(spread) else float("nan")
