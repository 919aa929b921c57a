"""How far a mean, and a difference between two models, can be trusted.

The unit is the group: rows that say the same stand or fall together, so that a group of fifty poems is one observation
and not fifty. Every interval here resamples groups, and a group brings all its rows and all their decoding runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from lib.config import nearest
from lib.evaluation import metrics

#: The metrics that are a mean over test rows, so that groups of rows have means of their own.
MEANS_OVER_ROWS = (*metrics.ROUGES, "correct")
#: sacreBLEU's own.
_SEED = 12345
#: A true difference of so many standard errors is found by a two-sided test at 5 % with a power of 80 %: 1.96 + 0.84.
_DETECTED = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))

#: What the scores of each model are made of (`scoring.read_pairs`), by iteration, seed and protocol.
Pairs = Mapping[tuple[str, int, str], pd.DataFrame]


class StatisticsError(ValueError):
    """Scores that cannot be compared; the message says why."""


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float, float]:
    """Mean, standard deviation, and the bounds of Student's t interval of the mean.

    For values that are independent, such as repeated measurements of a benchmark: decoding runs of the same test rows
    are not, and have `intervals`. With a single value the last three are NaN: one number has no spread.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()), float("nan"), float("nan"), float("nan")
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / len(values) ** 0.5
    return mean, deviation, mean - half, mean + half


def intervals(
    pairs: pd.DataFrame,
    names: Sequence[str],
    resamples: int = 1000,
    seed: int = _SEED,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The scores of one model, and how far other test groups would move them.

    Args:
        pairs: as for `paired_bootstrap`.
        names: the metrics, keys of metrics.COLUMNS.

    Returns:
        For each metric, in the order of `names`: `mean` over the decoding runs, `low` and `high`, its percentile
        interval over resampled groups, `error`, its standard deviation between resamples, `groups`, `rows` and `runs`.
        With a single group, low, high and error are NaN.

    Raises:
        StatisticsError: as `paired_bootstrap`.
    """
    sums = _Sums.of(pairs, _columns_of(names), "pairs")
    drawn = _times_drawn(len(sums.groups), resamples, seed)
    table = []
    for name in names:
        mean, *others = sums.scores(name, drawn)
        low, high = _percentiles(others, len(sums.groups), confidence)
        error = np.std(others, ddof=1) if len(sums.groups) > 1 else float("nan")
        found = {"metric": name, "mean": mean, "low": low, "high": high, "error": error}
        table.append(found | {"groups": len(sums.groups), "rows": len(sums.rows), "runs": len(sums.values)})
    return pd.DataFrame(table)


def summarise(results: pd.DataFrame, pairs: Pairs, resamples: int = 1000, seed: int = _SEED) -> pd.DataFrame:
    """The mean over decoding runs of each iteration, seed, protocol and metric, with its interval over test groups.

    Args:
        results: tidy, as in results.csv.
        pairs: what they are made of. Of what is not there the interval is NaN.
        resamples: how many.

    Returns:
        The same keys with `mean`; `sd`, the standard deviation between the decoding runs; `low` and `high`, the 95 %
        percentile interval of the mean over resampled groups, decoding runs inside (`intervals`); `runs`; and `groups`.
    """
    keys = ["iteration", "seed", "protocol"]
    rows = []
    for key, part in results.groupby(keys, sort=False):
        made = pairs.get(key)
        names = [] if made is None else _made_of(made, part["metric"])
        known = intervals(made, names, resamples, seed).set_index("metric") if names else pd.DataFrame()
        for metric, values in part.groupby("metric", sort=False)["value"]:
            low, high, groups = known.loc[metric, ["low", "high", "groups"]] if metric in known.index else (np.nan,) * 3
            rows.append([*key, metric, values.mean(), values.std(), low, high, len(values), groups])
    return pd.DataFrame(rows, columns=[*keys, "metric", "mean", "sd", "low", "high", "runs", "groups"])


def over_seeds(results: pd.DataFrame, pairs: Pairs, resamples: int = 1000, seed: int = _SEED) -> pd.DataFrame:
    """The parts of the uncertainty of a mean over decoding runs and training seeds, by iteration, protocol and metric.

    Args:
        results, pairs: as for `summarise`.

    Returns:
        The same keys with `mean` (over seeds, of each seed's mean over its decoding runs) and
        `group_error`, the standard error of that mean that comes with the draw of the test groups: its standard
            deviation over resampled groups, the same ones for every seed. It includes what decoding adds to a group.
        `decoding_error`, how much of a standard error comes from decoding alone: the standard deviation between a
            seed's runs over the square root of their number, and the same again over seeds. More decoding runs lower
            this part and no other. NaN with one run, as of a likelihood.
        `seed_sd`, the standard deviation between the means of the training seeds; NaN with one.
        `seeds`, how many.
    """
    keys = ["iteration", "protocol"]
    rows = []
    for key, part in results.groupby(keys, sort=False):
        iteration, protocol = key
        drawn: dict[str, list[np.ndarray]] = {}
        for n in part["seed"].unique():
            if (made := pairs.get((iteration, n, protocol))) is not None:
                names = _made_of(made, part["metric"])
                sums = _Sums.of(made, _columns_of(names), "pairs")
                times = _times_drawn(len(sums.groups), resamples, seed)
                for name in names if len(sums.groups) > 1 else ():
                    drawn.setdefault(name, []).append(sums.scores(name, times)[1:])
        for metric, values in part.groupby("metric", sort=False):
            runs = values.groupby("seed", sort=False)["value"].agg(["mean", "std", "size"])
            decoding = ((runs["std"] ** 2 / runs["size"]).mean() / len(runs)) ** 0.5
            group = np.std(np.mean(drawn[metric], axis=0), ddof=1) if metric in drawn else float("nan")
            rows.append([*key, metric, runs["mean"].mean(), group, decoding, runs["mean"].std(), len(runs)])
    names = ["metric", "mean", "group_error", "decoding_error", "seed_sd", "seeds"]
    return pd.DataFrame(rows, columns=[*keys, *names])


def paired_bootstrap(
    before: pd.DataFrame,
    after: pd.DataFrame,
    names: Sequence[str] = tuple(metrics.COLUMNS),
    resamples: int = 1000,
    seed: int = _SEED,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The difference between two models on the same test rows, and how far it can be trusted (Koehn 2004).

    Groups are the independent unit: a resample draws as many groups as there are with replacement, and a group brings
    all its rows and all their decoding runs, of both models. A model's score is the mean over its runs of each run's
    score, as in `summarise`; a run's score comes from the summed columns of the rows drawn, and a mean is over as many
    as were drawn. Trainings from several seeds can be taken together as more runs: the result then holds for these
    trainings, over test groups.

    With one run, every row a group of its own, and sacreBLEU's default seed, which is the default here, the resamples
    are those of sacreBLEU's own PairedTest. Its p-value is given beside ours, and is about half of it or less: it
    centres absolute values, which leaves one side of the distribution, so that without a difference it falls below 5 %
    about twice as often as it should; and two equal systems get the least p-value that there is. Ours centres the
    differences, and takes absolute values then.

    Args:
        before, after: the long tables of the two models, one line per test row and decoding run: `row`, `run`, `group`,
            and the columns that metrics.COLUMNS names for the metrics asked for (as `scoring.read_pairs` has them).
            Each run must have every row once, and both models the same rows in the same groups; they may differ in
            runs.
        names: the metrics, keys of metrics.COLUMNS.
        resamples: how many; memory takes 8 bytes times resamples times groups.

    Returns:
        For each metric, in the order of `names`:
        `before`, `after`, `difference` (after - before, in the metric's own unit),
        `low`, `high`: its percentile interval over the resamples,
        `p_value`: two-sided, of no difference; `sacrebleu_p_value`: as PairedTest computes it,
        `detectable`: the true difference that this test would have found with a power of 80 %, alone and at the
            two-sided level of 5 %: (z(0.975) + z(0.8)) s = 2.80 s, where s is the standard deviation of the difference
            between resamples, so that of its sampling. A correction for many comparisons needs more.
        `d_z`: Cohen's d_z with the group as unit: each group has one difference, of the means over its rows and their
            runs; d_z is the mean of these differences over their standard deviation, and large groups count no more
            than small ones. So it may differ in sign from the difference, which is over rows. NaN for what is no mean
            over rows (loss per byte, BLEU, chrF++, Weighted F1) or where the groups' differences are all equal,
        `standard_errors`: the difference over s, which unlike d_z grows with the number of groups,
        `groups`, `rows`: how many were tested on.
        Where the resamples are all equal, detectable and standard_errors are NaN. A single group says nothing about
        others: its low and high are NaN, and its p-values 1.

    Raises:
        StatisticsError: for a name that is not a metric, and for tables that lack a column, a row, a run or a value, or
            that hold different rows or groups.
    """
    columns = _columns_of(names)
    one, other = _Sums.of(before, columns, "before"), _Sums.of(after, columns, "after")
    _check_paired(one, other)
    times = _times_drawn(len(one.groups), resamples, seed)
    table = []
    for name in names:
        score_before, *drawn_before = one.scores(name, times)
        score_after, *drawn_after = other.scores(name, times)
        # Rounded, so that the order of additions does not make a difference between equal scores.
        difference = round(score_after - score_before, 9)
        drawn = np.round(np.subtract(drawn_after, drawn_before), 9)
        column = metrics.COLUMNS[name][0]
        by_group = np.round(other.group_means(column) - one.group_means(column), 9)
        low, high = _percentiles(drawn, len(one.groups), confidence)
        alone = len(one.groups) == 1
        table.append(
            {
                "metric": name,
                "before": score_before,
                "after": score_after,
                "difference": difference,
                "low": low,
                "high": high,
                "p_value": 1.0 if alone else _share(np.abs(drawn - drawn.mean()) >= abs(difference)),
                "sacrebleu_p_value": 1.0 if alone else _share(np.abs(drawn) - np.abs(drawn).mean() > abs(difference)),
                "detectable": _DETECTED * drawn.std(ddof=1) if np.ptp(drawn) else float("nan"),
                "d_z": _ratio(by_group.mean(), by_group) if name in MEANS_OVER_ROWS else float("nan"),
                "standard_errors": _ratio(difference, drawn),
                "groups": len(one.groups),
                "rows": len(one.rows),
            }
        )
    return pd.DataFrame(table)


def unpaired_bootstrap(
    one: pd.DataFrame,
    other: pd.DataFrame,
    names: Sequence[str] = tuple(metrics.COLUMNS),
    resamples: int = 1000,
    seed: int = _SEED,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The difference between two sets of test rows, such as leaked and other rows, with the answers of one model.

    Nothing pairs the rows, so that each side draws its own groups, as many as it has; else all is as in
    `paired_bootstrap`.

    Args:
        one, other: the lines of each side, as for `paired_bootstrap`. No group may be on both sides.

    Returns:
        For each metric, in the order of `names`: `one`, `other`, `difference` (other - one), `low` and `high` (its
        percentile interval; NaN where a side has one group), and `groups_one`, `groups_other`, `rows_one`,
        `rows_other`.

    Raises:
        StatisticsError: as `paired_bootstrap`, and for a group that is on both sides.
    """
    columns = _columns_of(names)
    sides = [_Sums.of(one, columns, "one"), _Sums.of(other, columns, "other")]
    both = np.intersect1d(sides[0].groups, sides[1].groups)
    if len(both):
        raise StatisticsError(
            f"{len(both)} groups have rows on both sides, such as group {both[0]}: part the rows by whole groups, "
            "since the two sides are drawn independently"
        )
    # Two streams: sides of equal size must not draw alike.
    times = [_times_drawn(len(side.groups), resamples, [seed, n]) for n, side in enumerate(sides)]
    table = []
    for name in names:
        (score_one, *drawn_one), (score_other, *drawn_other) = (
            side.scores(name, drawn) for side, drawn in zip(sides, times, strict=True)
        )
        fewest = min(len(side.groups) for side in sides)
        low, high = _percentiles(np.subtract(drawn_other, drawn_one), fewest, confidence)
        table.append(
            {
                "metric": name,
                "one": score_one,
                "other": score_other,
                "difference": score_other - score_one,
                "low": low,
                "high": high,
                "groups_one": len(sides[0].groups),
                "groups_other": len(sides[1].groups),
                "rows_one": len(sides[0].rows),
                "rows_other": len(sides[1].rows),
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


def mcnemar(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """The exact test of McNemar (1947): whether two models have equally many of the same items right.

    Args:
        before, after: 0 or 1 for each item, in the same order.

    Returns:
        `right_before` and `right_after`, the items that only one of them has right; `p_value`, two-sided, from the
        binomial distribution of these; `detectable` (`smallest_difference`).

    Raises:
        StatisticsError: for different numbers of items.
    """
    if len(before) != len(after):
        raise StatisticsError(f"{len(before)} items cannot be paired with {len(after)}: score both models on the same")
    only_before, only_after = int((before > after).sum()), int((after > before).sum())
    apart = only_before + only_after
    return {
        "right_before": only_before,
        "right_after": only_after,
        "p_value": float(stats.binomtest(only_before, apart).pvalue) if apart else 1.0,
        "detectable": smallest_difference(apart / len(before), len(before)),
    }


def smallest_difference(apart: float, items: int) -> float:
    """The smallest true difference of two accuracies that McNemar's test on so many items finds with a power of 80 %,
    alone and at the two-sided level of 5 %.

    It is the d that solves n = (1.96 sqrt(a) + 0.84 sqrt(a - d^2))^2 / d^2, the sample size of Connor (1987, Biometrics
    43, 207-211), where a is the share of items that one model alone has right. NaN where there is none.

    Args:
        apart: that share, 0 to 1.
    """
    if not apart:
        return float("nan")
    level, power = float(stats.norm.ppf(0.975)), float(stats.norm.ppf(0.8))
    # Squared, (d sqrt(n) - level sqrt(a))^2 = power^2 (a - d^2) is quadratic in d; the larger root.
    half, by = level * (apart * items) ** 0.5, items + power**2
    return float((half + (half**2 - by * apart * (level**2 - power**2)) ** 0.5) / by)


@dataclass(frozen=True)
class _Sums:
    """A model's columns, summed over the rows of each group."""

    rows: np.ndarray
    """The test rows in order, of shape (rows,)."""
    group_of: np.ndarray
    """For each row, the place of its group, of shape (rows,)."""
    groups: np.ndarray
    """The groups in the order of their first rows, of shape (groups,)."""
    columns: list[str]
    values: np.ndarray
    """Of shape (runs, groups, columns)."""

    @classmethod
    def of(cls, table: pd.DataFrame, columns: list[str], side: str) -> "_Sums":
        """Sum a long table, which the messages call `side`."""
        missing = [column for column in ("row", "run", "group", *columns) if column not in table]
        if missing:
            raise StatisticsError(
                f"the table {side!r} has no column {missing[0]!r}: metrics.each makes most; add `row`, `run`, `group`, "
                "`correct`, `nats` and `bytes`"
            )
        ordered = table.sort_values(["run", "row"])
        rows, runs = np.unique(table["row"]), table["run"].nunique()
        if not runs or not np.array_equal(ordered["row"], np.tile(rows, runs)):
            raise StatisticsError(
                f"the table {side!r} must have every test row once in every decoding run, but has {len(table)} lines "
                f"of {len(rows)} rows and {runs} runs: complete the missing runs, or leave them out"
            )
        values = ordered[columns].to_numpy(dtype=float)
        empty = np.argwhere(np.isnan(values))
        if empty.size:
            raise StatisticsError(
                f"the table {side!r} has {len(empty)} empty values, the first in {columns[empty[0, 1]]!r} of row "
                f"{ordered['row'].iloc[empty[0, 0]]}: score these completions again"
            )
        named = ordered["group"].to_numpy().reshape(runs, len(rows))
        apart = rows[(named != named[0]).any(axis=0)]
        if len(apart):
            raise StatisticsError(f"row {apart[0]} of the table {side!r} is in another group in another decoding run")
        group_of, groups = pd.factorize(named[0])
        summed = np.zeros((len(groups), runs, len(columns)))
        np.add.at(summed, group_of, values.reshape(runs, len(rows), len(columns)).swapaxes(0, 1))
        return cls(rows, group_of, np.asarray(groups), columns, summed.swapaxes(0, 1))

    @cached_property
    def sizes(self) -> np.ndarray:
        """How many rows each group has."""
        return np.bincount(self.group_of, minlength=len(self.groups))

    def scores(self, name: str, times: np.ndarray) -> np.ndarray:
        """A metric's mean over runs for each line of `times`, which says how often each group is drawn."""
        values = self.values[:, :, [self.columns.index(column) for column in metrics.COLUMNS[name]]]
        drawn = times @ self.sizes
        # Sums of counts are whole numbers below 2**53, so that they are exact as floats.
        found = np.mean([metrics.scores_of(name, times @ run, drawn) for run in values], axis=0)
        # To the last digit what the results say.
        found[0] = np.mean([metrics.score_of(name, run.sum(axis=0), len(self.rows)) for run in values])
        return found

    def group_means(self, column: str) -> np.ndarray:
        """The mean over rows and runs of each group, of shape (groups,)."""
        return np.asarray(self.values[:, :, self.columns.index(column)].mean(axis=0) / self.sizes)


def _columns_of(names: Sequence[str]) -> list[str]:
    """The columns that these metrics are made of."""
    unknown = [name for name in names if name not in metrics.COLUMNS]
    if unknown:
        raise StatisticsError(
            f"{unknown[0]!r} is not a metric{nearest(unknown[0], list(metrics.COLUMNS))}; "
            f"the metrics are {', '.join(metrics.COLUMNS)}"
        )
    return sorted({column for name in names for column in metrics.COLUMNS[name]})


def _made_of(pairs: pd.DataFrame, names: pd.Series) -> list[str]:
    """Those of some metrics that a table has the columns of."""
    return [name for name in names.unique() if set(metrics.COLUMNS.get(name, ("",))) <= set(pairs)]


def _check_paired(one: _Sums, other: _Sums) -> None:
    if not np.array_equal(one.rows, other.rows):
        apart = np.setxor1d(one.rows, other.rows)
        raise StatisticsError(
            f"the two models must be compared on the same test rows, but {len(apart)} rows are in only one table, "
            f"such as row {apart[0]}: keep the rows that both have"
        )
    grouped = one.groups[one.group_of], other.groups[other.group_of]
    apart = one.rows[grouped[0] != grouped[1]]
    if len(apart):
        raise StatisticsError(
            f"{len(apart)} rows are in another group in the other table, such as row {apart[0]}: score both models "
            "after the same split"
        )


def _times_drawn(groups: int, resamples: int, seed: int | Sequence[int]) -> np.ndarray:
    """How often each resample draws each group, (1 + resamples, groups); the first line is no resample but all once.

    They are drawn as sacreBLEU's PairedTest draws rows.
    """
    rng = np.random.default_rng(seed)
    times = np.ones((1 + resamples, groups))
    for line in times[1:]:
        line[:] = np.bincount(rng.choice(groups, size=groups), minlength=groups)
    return times


def _percentiles(drawn: Sequence[float] | np.ndarray, groups: int, confidence: float) -> tuple[float, float]:
    """The percentile interval; NaN if there was a single group to draw."""
    if groups < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _share(beyond: np.ndarray) -> float:
    """The share of resamples beyond the difference, itself counted as one, so that no p-value is 0."""
    return (int(beyond.sum()) + 1) / (len(beyond) + 1)


def _ratio(value: float, spread: np.ndarray) -> float:
    """A value in standard deviations, or NaN where there is no spread: that of equal values need not come out as 0."""
    return float(value / spread.std(ddof=1)) if np.ptp(spread) else float("nan")
