import itertools
import math
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from scipy import stats

from lib.evaluation import metrics
from lib.evaluation.statistics import (
    MEANS_OVER_ROWS,
    StatisticsError,
    holm,
    intervals,
    mcnemar,
    mean_interval,
    over_seeds,
    paired_bootstrap,
    smallest_difference,
    summarise,
    unpaired_bootstrap,
)

COLUMNS = ["iteration", "seed", "protocol", "decoding_run", "metric", "value"]


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


def test_the_t_interval_is_that_of_scipys_t_test():
    values = np.array([52.1, 49.8, 57.3, 48.0, 54.6, 51.0])
    _, _, low, high = mean_interval(values)
    assert (low, high) == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval(0.95)))


def test_equal_values_have_no_spread():
    assert mean_interval(np.array([3.0, 3.0, 3.0])) == (3, 0, 3, 3)


def test_a_single_value_has_a_mean_and_no_known_spread():
    mean, *spread = mean_interval(np.array([7.0]))
    assert mean == 7
    assert all(math.isnan(value) for value in spread)


def scored(*by_seed, iteration="5", metric="bleu"):
    """results.csv of one metric, from the values of each seed's decoding runs."""
    rows = [
        (iteration, seed, "clean", run, metric, value)
        for seed, values in enumerate(by_seed)
        for run, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_a_summary_has_the_mean_and_the_deviation_over_decoding_runs_for_every_key():
    keys = [(iteration, seed, metric) for iteration in ("base", "5") for seed in (0, 1) for metric in ("bleu", "chrf")]
    rows = [
        (iteration, seed, "clean", run, metric, 10 * n + run)
        for n, (iteration, seed, metric) in enumerate(keys)
        for run in range(3)
    ]
    found = summarise(pd.DataFrame(rows, columns=COLUMNS), {})
    assert list(found.columns) == [
        "iteration", "seed", "protocol", "metric", "mean", "sd", "low", "high", "runs", "groups",
    ]  # fmt: skip
    assert [tuple(row) for row in found[["iteration", "seed", "metric"]].to_numpy()] == keys
    assert found["mean"].tolist() == [10 * n + 1 for n in range(8)]
    assert (found["sd"] == 1).all()
    assert (found["runs"] == 3).all()
    # Without what the scores are made of there is no interval: decoding runs alone give none.
    assert found[["low", "high", "groups"]].isna().to_numpy().all()


def test_the_interval_of_a_summary_is_over_test_groups_and_hardly_over_decoding_runs():
    rng = np.random.default_rng(0)
    rows = rng.normal(40, 10, 100)
    runs = [rows + rng.normal(0, 0.1, 100) for _ in range(5)]
    results = scored([run.mean() for run in runs], metric="rouge1")
    found = summarise(results, {("5", 0, "clean"): means(*runs)}, resamples=4000).iloc[0]
    assert found["mean"] == pytest.approx(rows.mean(), abs=0.1)
    assert (found["groups"], found["runs"]) == (100, 5)
    half = 1.96 * stats.sem(rows)
    assert (found["low"], found["high"]) == (
        pytest.approx(found["mean"] - half, abs=0.1), pytest.approx(found["mean"] + half, abs=0.1),
    )  # fmt: skip
    assert found["sd"] < 0.1
    # In pairs of rows that are alike there are half as many groups, and the interval widens with the root of two.
    doubled = np.repeat(rows[:50], 2)
    pairs = {("5", 0, "clean"): means(doubled, groups=np.repeat(range(50), 2))}
    wide = summarise(scored([doubled.mean()], metric="rouge1"), pairs, resamples=4000).iloc[0]
    half = 1.96 * stats.sem(rows[:50])
    assert (wide["high"] - wide["low"]) / 2 == pytest.approx(half, rel=0.06)
    assert wide["groups"] == 50


def test_each_model_and_protocol_has_the_interval_of_its_own_pairs():
    results = pd.concat([scored([1.0], iteration=name, metric="rouge1") for name in ("base", "5")])
    pairs = {("base", 0, "clean"): means([1, 1, 1]), ("5", 0, "clean"): means([4, 4, 4]), ("5", 0, "paper"): means([7])}
    found = summarise(pd.concat([results, results.assign(protocol="paper")]), pairs, resamples=20)
    assert found[["iteration", "protocol", "low", "high"]].fillna(-1).to_numpy().tolist() == [
        ["base", "clean", 1, 1], ["5", "clean", 4, 4], ["base", "paper", -1, -1],
        # One group says nothing about others.
        ["5", "paper", -1, -1],
    ]  # fmt: skip


def test_a_metric_that_the_pairs_have_no_columns_for_has_no_interval():
    results = pd.concat([scored([1.0], metric=name) for name in ("rouge1", "loss_per_byte", "indonesian_share")])
    found = summarise(results, {("5", 0, "clean"): means([1, 1, 1])}, resamples=20).set_index("metric")
    assert found["low"].isna().to_dict() == {"rouge1": False, "loss_per_byte": True, "indonesian_share": True}


def test_an_interval_is_that_of_a_plain_loop_over_groups():
    # Groups of 1 to 30 rows, whose members are alike, under three decoding runs.
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.geometric(0.2, 60), 30)
    group = np.repeat(np.arange(60), sizes)
    level = rng.normal(40, 8, 60)[group]
    size = rng.integers(20, 90, len(group))
    runs = [level + rng.normal(0, 3, len(group)) for _ in range(3)]
    pairs = pd.concat(
        [
            pd.DataFrame({"row": range(len(group)), "run": run, "group": group, "rouge1": values, "bytes": size})
            for run, values in enumerate(runs)
        ]
    ).assign(nats=lambda table: table["bytes"] * (3 - level[table["row"]] / 40))
    found = intervals(pairs, ["rouge1", "loss_per_byte"], resamples=10_000).set_index("metric")
    nats, length = (pairs.loc[pairs["run"] == 0, name].to_numpy() for name in ("nats", "bytes"))
    members = [np.flatnonzero(group == n) for n in range(60)]
    drawn = {"rouge1": [], "loss_per_byte": []}
    own = np.random.default_rng(99)
    for _ in range(10_000):
        rows = np.concatenate([members[n] for n in own.integers(0, 60, 60)])
        drawn["rouge1"].append(np.mean([values[rows].mean() for values in runs]))
        drawn["loss_per_byte"].append(nats[rows].sum() / length[rows].sum() / math.log(2))
    for name, values in drawn.items():
        error = np.std(values, ddof=1)
        assert found.loc[name, "error"] == pytest.approx(error, rel=0.03)
        # The 2.5 % point of 10,000 draws has a standard error of about 0.027 deviations: four of them, of two sides.
        low, high = np.quantile(values, [0.025, 0.975])
        assert found.loc[name, "low"] == pytest.approx(low, abs=0.15 * error)
        assert found.loc[name, "high"] == pytest.approx(high, abs=0.15 * error)
        # A row on its own would have a far smaller error.
        alone = intervals(pairs.assign(group=pairs["row"]), [name]).iloc[0]
        assert alone["error"] < 0.7 * error
    assert (found["groups"] == 60).all() and (found["rows"] == len(group)).all() and (found["runs"] == 3).all()


def test_the_spread_over_seeds_and_that_over_decoding_runs_are_told_apart():
    # Seeds at 10, 12 and 14, whose runs lie 1, 2 and 3 apart from their middle.
    found = over_seeds(scored([9, 10, 11], [10, 12, 14], [11, 14, 17]), {}).iloc[0]
    assert (found["mean"], found["seed_sd"], found["seeds"]) == (12, 2, 3)
    # The mean of nine runs: the variances 1, 4 and 9 over three runs each, of a mean over three seeds.
    assert found["decoding_error"] == pytest.approx(math.sqrt((1 + 4 + 9) / 3) / 3)
    assert math.isnan(found["group_error"])


def test_more_decoding_runs_lower_the_decoding_s_part_and_leave_that_of_the_groups():
    rng = np.random.default_rng(0)
    rows = rng.normal(40, 10, 50)
    runs = [rows + rng.normal(0, 5, 50) for _ in range(40)]
    parts = []
    for count in (4, 40):
        results = scored([run.mean() for run in runs[:count]], metric="rouge1")
        pairs = {("5", 0, "clean"): means(*runs[:count])}
        parts.append(over_seeds(results, pairs).iloc[0])
    few, many = parts
    assert few["decoding_error"] == pytest.approx(5 / math.sqrt(50 * 4), rel=0.6)
    assert many["decoding_error"] == pytest.approx(5 / math.sqrt(50 * 40), rel=0.25)
    assert few["group_error"] == pytest.approx(stats.sem(np.mean(runs[:4], axis=0)), rel=0.1)
    assert many["group_error"] == pytest.approx(stats.sem(rows), rel=0.1)
    assert few["group_error"] > 3 * few["decoding_error"], "more test rows would help, more runs would not"


def test_the_groups_part_is_of_the_mean_over_seeds_on_the_same_draws():
    rng = np.random.default_rng(0)
    rows = rng.normal(40, 10, 60)
    # Two seeds that are good at the same groups do not make it smaller; two that cancel out leave nothing.
    alike = over_seeds(
        scored([1.0], [1.0], metric="rouge1"),
        {("5", 0, "clean"): means(rows), ("5", 1, "clean"): means(rows + 1)},
    ).iloc[0]
    assert alike["group_error"] == pytest.approx(stats.sem(rows), rel=0.1)
    contrary = over_seeds(
        scored([1.0], [1.0], metric="rouge1"),
        {("5", 0, "clean"): means(rows), ("5", 1, "clean"): means(80 - rows)},
    ).iloc[0]
    assert contrary["group_error"] == pytest.approx(0, abs=1e-9)


def test_a_seed_with_more_decoding_runs_weighs_no_more_than_another():
    assert over_seeds(scored([10], [20, 20, 20]), {})["mean"].tolist() == [15]
    pairs = {("5", 0, "clean"): means([0, 20, 10]), ("5", 1, "clean"): means(*[[20, 0, 10]] * 3)}
    found = over_seeds(scored([10], [10, 10, 10], metric="rouge1"), pairs).iloc[0]
    assert found["group_error"] == pytest.approx(0, abs=1e-9)


def test_one_seed_has_no_known_spread_over_seeds_and_one_run_none_over_runs():
    one_seed = over_seeds(scored([9, 10, 11]), {}).iloc[0]
    assert math.isnan(one_seed["seed_sd"]) and one_seed["decoding_error"] == pytest.approx(1 / math.sqrt(3))
    one_run = over_seeds(scored([10], [12]), {}).iloc[0]
    assert math.isnan(one_run["decoding_error"]) and one_run["seed_sd"] == pytest.approx(math.sqrt(2))


def test_iterations_are_kept_in_order_and_apart():
    both = pd.concat([scored([30], iteration="base"), scored([1], [3], iteration="5")])
    found = over_seeds(both, {})
    assert list(found.columns) == [
        "iteration", "protocol", "metric", "mean", "group_error", "decoding_error", "seed_sd", "seeds",
    ]  # fmt: skip
    assert found[["iteration", "mean", "seeds"]].to_numpy().tolist() == [["base", 30, 1], ["5", 2, 2]]


WORDS = ["ibu", "kota", "jepang", "adalah", "tokyo", "lima", "hujan", "turun", "di", "atas", "atap", "seng", "malam"]


def texts(rows, seed, words=12):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, words))) for _ in range(rows)]


def noisy(originals, seed, share):
    """The texts with about that share of their words replaced."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) if rng.random() < share else w for w in t.split()) for t in originals]


def table(completions, references, seed=0, run=0):
    found = metrics.each(completions, references).assign(row=range(len(completions)), run=run)
    found = found.assign(group=found["row"], bytes=[len(text) for text in references])
    found["nats"] = found["bytes"] * (1 + np.random.default_rng(seed).random(len(completions)))
    return found.assign(correct=np.random.default_rng([seed, run]).random(len(completions)) < 0.6)


def two_models(rows, runs, worse=0.5, better=0.4):
    """The tables of a worse and a better model."""
    references = texts(rows, seed=0)
    tables = []
    for seed, share in enumerate((worse, better)):
        completions = [noisy(references, 100 * seed + run, share) for run in range(runs)]
        tables.append(pd.concat([table(c, references, seed, run) for run, c in enumerate(completions)]))
    return tables


def means(*values, groups=None):
    """A table of rouge1 alone, with a run for each list of values; every row is a group, unless they are given."""
    runs = [
        pd.DataFrame({"row": range(len(v)), "run": run, "group": range(len(v)) if groups is None else groups}).assign(
            rouge1=v
        )
        for run, v in enumerate(values)
    ]
    return pd.concat(runs, ignore_index=True)


@pytest.mark.parametrize("better", [0.47, 0.4])
def test_with_one_decoding_run_the_bootstrap_is_that_of_sacrebleus_paired_test(better, monkeypatch):
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    references = texts(150, seed=0)
    first, second = noisy(references, 1, 0.5), noisy(references, 2, better)
    found = paired_bootstrap(table(first, references), table(second, references)).set_index("metric")
    library = {"bleu": BLEU(), "chrf": CHRF(word_order=2)}
    systems = [("first", first), ("second", second)]
    _, scores = PairedTest(systems, library, [references], test_type="bs", n_samples=1000)()
    for ours, theirs in [("bleu", scores["BLEU"]), ("chrf", scores["chrF2++"])]:
        assert found.loc[ours, "before"] == theirs[0].score
        assert found.loc[ours, "after"] == theirs[1].score
        assert found.loc[ours, "sacrebleu_p_value"] == theirs[1].p_value


def test_the_difference_is_that_of_the_means_which_the_summary_shows():
    before, after = two_models(rows=40, runs=3)
    found = paired_bootstrap(before, after, resamples=20).set_index("metric")
    for side, model in [("before", before), ("after", after)]:
        runs = [run for _, run in model.groupby("run")]
        for name, columns in metrics.COLUMNS.items():
            scores = [metrics.score_of(name, run[list(columns)].to_numpy().sum(axis=0), len(run)) for run in runs]
            assert found.loc[name, side] == pytest.approx(np.mean(scores), abs=1e-12)
    assert found["difference"].to_numpy() == pytest.approx((found["after"] - found["before"]).to_numpy(), abs=1e-9)


def test_the_bootstrap_of_a_mean_agrees_with_its_normal_theory():
    rng = np.random.default_rng(0)
    before, after = rng.normal(40, 10, 400), rng.normal(41, 10, 400)
    found = paired_bootstrap(means(before), means(after), ["rouge1"], resamples=20_000).iloc[0]
    error = stats.sem(after - before)
    z = (after - before).mean() / error
    assert 1 < z < 2, "where both p-values are far from 0 and from 1"
    assert found["difference"] == pytest.approx(z * error)
    assert (found["low"], found["high"]) == pytest.approx(((z - 1.96) * error, (z + 1.96) * error), abs=0.05)
    assert found["standard_errors"] == pytest.approx(z, rel=0.02)
    assert found["p_value"] == pytest.approx(2 * stats.norm.sf(z), rel=0.05)
    # One side alone: this is why it is not the one to go by.
    assert found["sacrebleu_p_value"] == pytest.approx(stats.norm.sf(z), rel=0.1)


def test_the_p_value_is_below_5_percent_as_often_as_it_should_be_where_there_is_no_difference():
    rng = np.random.default_rng(0)
    found = pd.concat(
        [
            paired_bootstrap(means(rng.normal(size=60)), means(rng.normal(size=60)), ["rouge1"], 100, seed)
            for seed in range(400)
        ]
    )
    # Of 400 tests, 20 are expected, and 20 + 2.6 * sqrt(19) = 31 are not exceeded in 99.5 % of cases.
    assert 10 <= (found["p_value"] <= 0.05).sum() <= 31
    assert (found["sacrebleu_p_value"] <= 0.05).sum() > 31


def test_a_row_brings_all_its_decoding_runs():
    # Five runs that say the same five times are no more rows than one of them.
    rng = np.random.default_rng(0)
    before, after = rng.normal(40, 10, 60), rng.normal(42, 10, 60)
    once = paired_bootstrap(means(before), means(after), ["rouge1"])
    five = paired_bootstrap(means(*[before] * 5), means(*[after] * 5), ["rouge1"])
    pd.testing.assert_frame_equal(once, five)
    # And models that differ in runs can be compared.
    pd.testing.assert_frame_equal(once, paired_bootstrap(means(*[before] * 2), means(after), ["rouge1"]))


def test_a_group_brings_all_its_rows():
    # Rows that say the same five times are no more groups than one of them.
    rng = np.random.default_rng(0)
    before, after = rng.normal(40, 10, 60), rng.normal(42, 10, 60)
    once = paired_bootstrap(means(before), means(after), ["rouge1"])
    five = {"groups": np.repeat(range(60), 5)}
    found = paired_bootstrap(means(np.repeat(before, 5), **five), means(np.repeat(after, 5), **five), ["rouge1"])
    assert found["rows"].tolist() == [300]
    pd.testing.assert_frame_equal(once.drop(columns="rows"), found.drop(columns="rows"))


def test_a_group_is_drawn_with_its_place_in_the_rows_and_not_with_its_name():
    rng = np.random.default_rng(0)
    before, after = rng.normal(40, 10, 60), rng.normal(42, 10, 60)
    names = rng.permutation(60) - 2**62
    plain = paired_bootstrap(means(before), means(after), ["rouge1"])
    named = paired_bootstrap(means(before, groups=names), means(after, groups=names), ["rouge1"])
    pd.testing.assert_frame_equal(plain, named)


def test_a_mean_is_over_as_many_rows_as_were_drawn():
    # One group has three rows of ten, the other one row of twenty: draws give 10, 20 or (3 * 10 + 20) / 4.
    found = intervals(means([10, 10, 10, 20], groups=[7, 7, 7, 3]), ["rouge1"]).iloc[0]
    assert (found["mean"], found["low"], found["high"]) == (12.5, 10, 20)
    expected = np.std([10, 20, 12.5, 12.5])
    assert found["error"] == pytest.approx(expected, rel=0.05)


def test_cohens_d_z_worked_by_hand():
    # Over their runs, the rows differ by 1, 2 and 3: mean 2, deviation 1.
    found = paired_bootstrap(means([10, 20, 30], [12, 22, 32]), means([12, 23, 34], [12, 23, 34]), ["rouge1"]).iloc[0]
    assert (found["difference"], found["d_z"], found["rows"], found["groups"]) == (2, 2, 3, 3)


def test_d_z_is_over_groups_each_of_which_counts_once():
    # Groups of 1, 1 and 4 rows that differ by 1, 2 and 0, 2, 4, 6, of which the mean is 3.
    groups = [0, 1, 2, 2, 2, 2]
    found = paired_bootstrap(
        means([10] * 6, groups=groups), means([11, 12, 10, 12, 14, 16], groups=groups), ["rouge1"]
    ).iloc[0]
    assert (found["difference"], found["d_z"], found["rows"], found["groups"]) == (2.5, 2, 6, 3)


def test_the_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    base = rng.normal(size=100)
    detectable = paired_bootstrap(means(base), means(base + rng.normal(size=100)), ["rouge1"]).iloc[0]["detectable"]
    # Of differences with deviation 1 over 100 groups: 2.80 tenths.
    assert detectable == pytest.approx(0.28, rel=0.2)
    found = [
        paired_bootstrap(means(np.zeros(100)), means(rng.normal(0.28, 1, 100)), ["rouge1"], 200, seed)["p_value"][0]
        for seed in range(300)
    ]
    # 240 of 300, give or take three times 7.
    assert 218 <= np.sum(np.array(found) < 0.05) <= 262


def test_a_single_group_says_nothing_about_others():
    groups = [0, 0, 0]
    found = paired_bootstrap(means([1, 2, 3], groups=groups), means([5, 6, 9], groups=groups), ["rouge1"]).iloc[0]
    assert found["difference"] == pytest.approx(14 / 3)
    assert found["p_value"] == found["sacrebleu_p_value"] == 1
    assert found[["low", "high", "detectable", "d_z", "standard_errors"]].isna().all()


def test_an_unpaired_difference_agrees_with_its_normal_theory():
    rng = np.random.default_rng(0)
    one, other = rng.normal(40, 10, 200), rng.normal(45, 5, 100)
    found = unpaired_bootstrap(
        means(one), means(other).assign(row=lambda t: t["row"] + 500, group=lambda t: t["group"] + 500),
        ["rouge1"], resamples=20_000,
    ).iloc[0]  # fmt: skip
    expected = stats.ttest_ind(other, one, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert (found["one"], found["other"]) == pytest.approx((one.mean(), other.mean()))
    assert found["difference"] == pytest.approx(other.mean() - one.mean())
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=0.1), pytest.approx(high, abs=0.1))
    assert [found[f"{what}_{side}"] for what in ("groups", "rows") for side in ("one", "other")] == [200, 100, 200, 100]


def test_unpaired_sides_are_drawn_apart_and_by_group():
    # If they were drawn alike, two equal sides would never differ.
    rows = np.random.default_rng(0).normal(40, 10, 100)
    other = means(rows).assign(group=range(100, 200))
    found = unpaired_bootstrap(means(rows), other, ["rouge1"], 4000).iloc[0]
    assert found["difference"] == 0
    half = 1.96 * math.sqrt(2) * stats.sem(rows)
    assert (found["low"], found["high"]) == (pytest.approx(-half, rel=0.1), pytest.approx(half, rel=0.1))
    four = np.repeat(range(100), 4)
    grouped = unpaired_bootstrap(
        means(np.repeat(rows, 4), groups=four), means(np.repeat(rows, 4), groups=four + 100), ["rouge1"], 4000
    ).iloc[0]
    assert grouped[["low", "high"]].tolist() == pytest.approx(found[["low", "high"]].tolist())
    assert (grouped["groups_one"], grouped["rows_one"]) == (100, 400)


def test_a_side_of_one_group_has_no_interval():
    found = unpaired_bootstrap(means([1, 2, 3]), means([5, 7], groups=[9, 9]), ["rouge1"]).iloc[0]
    assert (found["difference"], found["groups_other"]) == (4, 1)
    assert found[["low", "high"]].isna().all()


def test_a_group_on_both_unpaired_sides_is_refused():
    with pytest.raises(StatisticsError, match="1 groups have rows on both sides, such as group 2: part the rows by wh"):
        unpaired_bootstrap(means([1, 2, 3]), means([5, 7], groups=[9, 2]), ["rouge1"])


def test_d_z_is_for_means_over_rows_and_more_rows_raise_the_standard_errors_alone():
    before, after = two_models(rows=60, runs=1)
    once = paired_bootstrap(before, after).set_index("metric")
    assert once.index[once["d_z"].notna()].tolist() == list(MEANS_OVER_ROWS)
    four = [
        pd.concat([side.assign(row=side["row"] + 60 * n, group=side["row"] + 60 * n) for n in range(4)])
        for side in (before, after)
    ]
    found = paired_bootstrap(*four).set_index("metric")
    assert found.loc["rouge1", "d_z"] == pytest.approx(once.loc["rouge1", "d_z"], rel=0.02)
    assert found.loc["bleu", "standard_errors"] == pytest.approx(2 * once.loc["bleu", "standard_errors"], rel=0.15)


def test_equal_models_do_not_differ():
    before, _ = two_models(rows=30, runs=2)
    found = paired_bootstrap(before, before.sample(frac=1, random_state=0))
    assert found["metric"].tolist() == list(metrics.COLUMNS)
    assert (found[["difference", "low", "high"]] == 0).to_numpy().all()
    assert (found["p_value"] == 1).all()
    assert found[["d_z", "standard_errors", "detectable"]].isna().to_numpy().all()


def test_a_difference_that_is_the_same_in_every_row_has_no_spread():
    values = np.random.default_rng(0).normal(40, 30, 50)
    found = paired_bootstrap(means(values), means(values + 1.1), ["rouge1"], 200).iloc[0]
    assert (found["difference"], found["low"], found["high"]) == (1.1, 1.1, 1.1)
    assert found["p_value"] == 1 / 201
    assert math.isnan(found["d_z"]) and math.isnan(found["standard_errors"]) and math.isnan(found["detectable"])


def test_the_same_seed_gives_the_same_figures_and_another_others():
    tables = two_models(rows=30, runs=1)
    pd.testing.assert_frame_equal(paired_bootstrap(*tables, seed=3), paired_bootstrap(*tables, seed=3))
    assert not paired_bootstrap(*tables, seed=3)["low"].equals(paired_bootstrap(*tables, seed=4)["low"])
    one = tables[0]
    pd.testing.assert_frame_equal(intervals(one, ["bleu"], seed=3), intervals(one, ["bleu"], seed=3))
    assert intervals(one, ["bleu"], seed=3)["low"][0] != intervals(one, ["bleu"], seed=4)["low"][0]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (means([1, 2]), "1 rows are in only one table, such as row 2"),
        (
            means([1, 2, 3]).assign(row=[0, 1, 1]),
            "every test row once in every decoding run, but has 3 lines of 2 rows",
        ),
        (pd.concat([means([1, 2, 3]), means([1, 2]).assign(run=1)]), "5 lines of 3 rows and 2 runs"),
        (means([]), "0 lines of 0 rows and 0 runs"),
        (means([1, 2, 3]).drop(columns="run"), "the table 'after' has no column 'run'"),
        (means([1, 2, 3]).drop(columns="group"), "the table 'after' has no column 'group'"),
        (means([1, 2, 3], groups=[0, 1, 1]), "1 rows are in another group in the other table, such as row 2"),
        (
            means([1, 2, 3], [1, 2, 3]).assign(group=[0, 1, 2, 0, 0, 2]),
            "row 1 of the table 'after' is in another group in another decoding run",
        ),
        (means([1, 2, 3]).drop(columns="rouge1"), "the table 'after' has no column 'rouge1'"),
        (means([1, None, 3]), "1 empty values, the first in 'rouge1' of row 1"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(after, said):
    with pytest.raises(StatisticsError, match=said):
        paired_bootstrap(means([1, 2, 3]), after, ["rouge1"])


def test_an_unknown_metric_is_refused_by_name():
    with pytest.raises(StatisticsError, match="'rouge3' is not a metric; did you mean 'rouge"):
        paired_bootstrap(means([1]), means([1]), ["rouge3"])


@pytest.mark.parametrize(
    ("lost", "won", "p_value"),
    # The last as McNemar's exact test is worked in textbooks: 2 P(at most 2 of 12 heads).
    [(0, 0, 1.0), (5, 5, 1.0), (0, 1, 1.0), (0, 6, 2 / 2**6), (2, 10, 2 * (1 + 12 + 66) / 2**12)],
)
def test_mcnemars_test_is_a_fair_coin_over_the_items_that_one_model_alone_has_right(lost, won, p_value):
    before = np.array([1] * lost + [0] * won + [0, 1] * 10)
    after = np.array([0] * lost + [1] * won + [0, 1] * 10)
    found = mcnemar(before, after)
    assert found["p_value"] == pytest.approx(p_value)
    assert (found["right_before"], found["right_after"]) == (lost, won)


def test_models_of_other_items_cannot_be_paired():
    with pytest.raises(StatisticsError, match="3 items cannot be paired with 2"):
        mcnemar(np.ones(3), np.ones(2))


@given(st.floats(0.02, 1), st.integers(30, 5_000))
def test_the_smallest_difference_is_the_one_that_connors_sample_size_asks_so_many_items_for(apart, items):
    found = smallest_difference(apart, items)
    if found < apart:
        asked = (1.959964 * apart**0.5 + 0.841621 * (apart - found**2) ** 0.5) ** 2 / found**2
        assert asked == pytest.approx(items, rel=1e-4)


def test_of_a_true_difference_of_the_smallest_size_four_in_five_trials_find_it():
    rng, items, apart = np.random.default_rng(0), 500, 0.3
    difference = smallest_difference(apart, items)
    assert 0.06 < difference < 0.075
    won = rng.multinomial(items, [(apart + difference) / 2, (apart - difference) / 2, 1 - apart], size=2_000)
    p_values = [stats.binomtest(int(one), int(one + other)).pvalue for one, other, _ in won]
    # The exact test is a little below its level, and so is its power.
    assert 0.74 < np.mean(np.array(p_values) < 0.05) < 0.82


def test_without_an_item_that_one_model_alone_has_right_nothing_is_known_of_the_smallest_difference():
    assert math.isnan(smallest_difference(0, 100))


def test_holms_adjustment_worked_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06 and 0.04, which is raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([0.03]).tolist() == [0.03]
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holms_method_is_the_closed_test_by_bonferroni(p_values):
    # By the closure principle (Marcus, Peritz and Gabriel 1976) a hypothesis is rejected if every set of hypotheses
    # that holds it is, here by Bonferroni: its smallest p-value times its size.
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(range(len(p_values)), size)]
    for place, adjusted in enumerate(holm(p_values)):
        closed = max(len(s) * min(p_values[i] for i in s) for s in sets if place in s)
        assert adjusted == pytest.approx(min(closed, 1))


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_not_adjusted(wrong):
    with pytest.raises(StatisticsError, match=f"{wrong} is not:"):
        holm([0.5, wrong])
