import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.statistics import mean_interval, summarise


def test_the_t_interval_worked_by_hand():
    # 1, 2, 3: mean 2, deviation 1, standard error 1/sqrt(3). With two degrees of freedom the quantile has a closed
    # form: t = (2p - 1) / sqrt(2p(1 - p)), at p = 0.975 0.95 / sqrt(0.04875) = 4.30265.
    mean, deviation, low, high = mean_interval(np.array([1, 2, 3]))
    assert (mean, deviation) == (2, 1)
    half = 0.95 / math.sqrt(0.04875) / math.sqrt(3)
    assert (low, high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert half == pytest.approx(2.48414, abs=1e-5)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_t_interval_is_scipys(confidence):
    values = np.array([52.1, 49.8, 57.3, 48.0, 54.6])
    _, _, low, high = mean_interval(values, confidence)
    expected = stats.t.interval(confidence, 4, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)


def test_equal_values_have_no_spread():
    assert mean_interval(np.array([3.0, 3.0, 3.0])) == (3, 0, 3, 3)


def test_a_single_value_has_a_mean_and_no_known_spread():
    mean, *spread = mean_interval(np.array([7.0]))
    assert mean == 7
    assert all(math.isnan(value) for value in spread)


def test_a_summary_is_over_decoding_runs_only():
    keys = [(iteration, seed, metric) for iteration in ("base", "5") for seed in (0, 1) for metric in ("bleu", "chrf")]
    rows = [
        (iteration, seed, "clean", run, metric, 10 * n + run)
        for n, (iteration, seed, metric) in enumerate(keys)
        for run in range(3)
    ]
    columns = ["iteration", "seed", "protocol", "decoding_run", "metric", "value"]
    found = summarise(pd.DataFrame(rows, columns=columns))
    assert list(found.columns) == ["iteration", "seed", "protocol", "metric", "mean", "sd", "low", "high", "runs"]
    assert [tuple(row) for row in found[["iteration", "seed", "metric"]].to_numpy()] == keys
    assert found["mean"].tolist() == [10 * n + 1 for n in range(8)]
    assert (found["sd"] == 1).all()
    assert (found["runs"] == 3).all()
    assert found["high"][0] == pytest.approx(1 + 2.48414, abs=1e-5)
