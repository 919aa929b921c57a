"""What others printed: whether the files agree with themselves, and how they are read."""

import subprocess

import pandas as pd
import pytest

from lib import paths
from lib.evaluation.metrics import METRICS
from lib.parameters import load_config
from lib.report import published

ITERATIONS = [str(n) for n in range(10)]
SETTINGS = {
    "lora": ("lora_rank", "lora_alpha", "use_rslora"),
    "sampling": ("share", "clusters"),
    "training": ("schedule", "learning_rate", "epochs"),
}


def score(iteration: str, metric: str) -> pd.Series:
    table = published.table3()
    return table[(table["iteration"] == iteration) & (table["metric"] == metric)].iloc[0]


def test_table_2_has_ten_rows_named_by_text():
    assert published.table2()["iteration"].tolist() == ITERATIONS


def test_table_3_has_five_metrics_of_the_base_and_of_ten_rows():
    table = published.table3()
    assert table["iteration"].drop_duplicates().tolist() == ["base", *ITERATIONS]
    assert (table.groupby("iteration")["metric"].agg(list).map(len) == 5).all()
    assert set(table["metric"]) == set(METRICS) - {"loss_per_byte", "chrf"}
    assert table["mean"].notna().all()


def test_scores_are_in_this_project_s_units():
    assert score("5", "bleu")["mean"] == 52.35
    assert score("base", "rouge1")["mean"] == 5.5
    assert score("5", "rougeL")[["mean", "sd"]].tolist() == [5.6, 0.075]
    assert score("base", "weighted_f1")[["mean", "sd"]].tolist() == [0.503, 0.003]
    rouge = published.claims().set_index(["against", "metric"]).loc[("SeaLLM 7B", "rougeL")]
    assert rouge["of_row_5"] == 5.6 and rouge["implied"] == 1.89


def test_rows_4_and_6_are_one_training_printed_twice():
    for table in (published.table2(), published.table3()):
        four, six = (table[table["iteration"] == n].drop(columns="iteration").reset_index(drop=True) for n in "46")
        pd.testing.assert_frame_equal(four, six)
        five = table[table["iteration"] == "5"].drop(columns="iteration").reset_index(drop=True)
        assert not four.equals(five)


def test_the_deviation_of_the_printed_bleu_reaches_16_and_a_half_points():
    table = published.table3()
    assert table[table["metric"] == "bleu"]["sd"].max() == 16.54


def test_a_deviation_is_printed_for_all_metrics_but_two():
    table = published.table3()
    assert set(table[table["sd"].isna()]["metric"]) == {"rouge1", "rouge2"}
    assert table[table["metric"].isin(["bleu", "rougeL", "weighted_f1"])]["sd"].notna().all()


@pytest.mark.parametrize(("metric", "change"), [("bleu", 111.4), ("rougeL", 21.7), ("weighted_f1", -12.9)])
def test_the_claims_against_the_base_follow_from_table_3_within_a_point(metric, change):
    follows = 100 * (score("5", metric)["mean"] / score("base", metric)["mean"] - 1)
    assert follows == pytest.approx(change, abs=0.05)
    claimed = published.claims().set_index(["against", "metric"]).loc[("base", metric), "change_percent"]
    assert claimed == pytest.approx(follows, abs=0.6)


def test_what_a_claim_implies_is_what_its_percentage_gives():
    table = published.claims()
    again = table["of_row_5"] / (1 + table["change_percent"] / 100)
    assert (abs(table["implied"] / again - 1) < 0.005).all()
    assert [score("5", metric)["mean"] for metric in table["metric"]] == table["of_row_5"].tolist()


def test_the_7b_models_are_implied_above_all_that_cendol_published_and_in_the_opposite_order():
    implied = published.claims().query("metric == 'bleu'").set_index("against")["implied"]
    highest = published.baselines().query("metric == 'bleu'").groupby("model")["high"].max()
    names = ["SeaLLM 7B", "Bactrian-X BLOOM 7B"]
    assert implied[names].tolist() == [14.54, 18.56]
    assert highest[names].tolist() == [10.32, 6.29]


def test_baselines_are_tidy_and_say_where_they_come_from():
    table = published.baselines()
    assert set(table["metric"]) == {"bleu", "rouge1", "rouge2", "rougeL"}
    assert not table.duplicated(["model", "prompt_language", "task", "metric"]).any()
    assert table.notna().all(axis=None)
    # Values are printed to two decimals.
    assert (table["low"] <= table["mean"] + 0.005).all() and (table["mean"] <= table["high"] + 0.005).all()
    assert table[["mean", "low", "high"]].min(axis=None) >= 0 and table["high"].max() <= 100
    assert table["protocol"].str.contains("zero-shot").all()
    language = table["source"].str.extract(r"^(?:nlg|flores)_results_(ind|eng)_0_.*\.csv$")[0]
    assert (language.map({"ind": "Indonesian", "eng": "English"}) == table["prompt_language"]).all()


@pytest.mark.parametrize("iteration", sorted(p.stem for p in (paths.PARAMETERS / "iterations").glob("[0-9].toml")))
def test_an_iteration_s_settings_are_those_of_its_row_in_table_2(iteration):
    config = load_config("t", "paper", iteration)
    row = published.table2().set_index("iteration").loc[iteration]
    assert config.sampling.method == row["sampling_method"]
    for section, names in SETTINGS.items():
        for name in names:
            assert pd.isna(row[name]) or getattr(getattr(config, section), name) == row[name], name
    for name in ("rows", "rows_per_cluster"):
        counts = pd.notna(row[name]) and (name == "rows" or row["clusters"] > 0)
        assert not counts or getattr(config.sampling, name) == row[name], name


def test_git_keeps_the_published_files():
    for path in paths.PUBLISHED.iterdir():
        asked = subprocess.run(["git", "check-ignore", "-q", str(path)], cwd=paths.PUBLISHED)
        if asked.returncode == 128:
            pytest.skip("not a git checkout")
        assert asked.returncode == 1, f"{path.name} is ignored"
