"""How far a mean can be trusted."""

import numpy as np
import pandas as pd
from scipy import stats


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
