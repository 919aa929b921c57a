"""Rows laid against each other, from the files of a run that was made by hand."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sacrebleu
import small_run

from lib import parameters
from lib.evaluation import floors, metrics, scoring, statistics
from lib.evaluation.metrics import METRICS
from lib.model import loading
from lib.parameters import load_configs
from lib.report import ablation, conclusions, look, published


def named(configs):
    return [(config.iteration, config.seed) for config in configs]


# --- What there is to compare ----------------------------------------------------------------------------------------


def test_a_failed_training_is_named_with_its_sentence_and_the_others_stay():
    configs = small_run.make(iterations="0 5", seeds="0 1")
    why = 'training.ipynb, cell 4: OutOfMemoryError: "no room" left\nRead x.ipynb, fix the cause, and run make again'
    small_run.fail(configs[2], "3_training_0_seed1", why)
    left, failed = ablation.finished(configs)
    assert named(left) == [("base", 0), ("0", 0), ("5", 0), ("5", 1)]
    assert failed == {"row 0, seed 1": 'training.ipynb, cell 4: OutOfMemoryError: "no room" left'}


@pytest.mark.parametrize("stage", ["1_sampling_4", "2_preprocessing_4", "3_training_4_seed0", "4_evaluation_4_seed0"])
def test_what_several_rows_share_fails_all_of_them_and_no_other(stage):
    configs = small_run.make(iterations="4 5 6")
    small_run.write_json(configs[0].paths.failure(stage), "broken")
    left, failed = ablation.finished(configs)
    assert named(left) == [("base", 0), ("5", 0)]
    assert failed == {"row 4, seed 0": "broken", "row 6, seed 0": "broken"}


def test_the_first_stage_that_failed_gives_the_reason():
    configs = small_run.make(iterations="0 5")
    small_run.write_json(configs[1].paths.failure("4_evaluation_0_seed0"), "later")
    small_run.write_json(configs[1].paths.failure("2_preprocessing_0"), "first")
    assert ablation.finished(configs)[1] == {"row 0, seed 0": "first"}


def test_a_try_that_failed_is_named_though_no_try_is_among_the_models():
    configs = small_run.make(studies="recipe tries")
    tried = next(config for config in configs if config.iteration.startswith("tries_"))
    small_run.fail(tried, f"3_training_{tried.name}", "cell 3: ValueError: no")
    left, failed = ablation.finished(configs)
    assert failed == {look.model_name(tried.iteration, tried.seed): "cell 3: ValueError: no"}
    assert not any(config.iteration.startswith("tries_") for config in left)


def test_without_a_failure_every_model_stays():
    configs = small_run.make(iterations="4 6", studies="bos")
    assert ablation.finished(configs) == (configs, {})


def test_a_run_of_which_every_training_failed_is_an_error_that_says_why():
    configs = small_run.make(seeds="0 1")
    for config in configs[1:]:
        small_run.fail(config, f"3_training_{config.name}", "no memory")
    with pytest.raises(ablation.AblationError, match="no training of run 'trial' finished; row 5, seed 0: no mem"):
        ablation.finished(configs)


def test_trainings_tell_what_was_trained_on_and_the_losses_at_the_start_the_end_and_the_lowest():
    configs = small_run.make(iterations="4 6", seeds="0 1")
    small_run.write_log(configs[2], last=2.75)
    table = ablation.trainings(configs)
    assert table[["iteration", "seed"]].values.tolist() == [["4", 0], ["4", 1], ["6", 0], ["6", 1]]
    assert table.loc[1, ["rows", "steps", "train_loss", "validation_loss", "first", "lowest"]].tolist() == [
        12, 10, 2.5, 2.75, 3.5, 2.5,
    ]  # fmt: skip
    # Row 6 is row 4's training.
    assert table["validation_loss"].tolist() == [2.25, 2.75, 2.25, 2.75]


# --- The best row ----------------------------------------------------------------------------------------------------


def test_the_lowest_mean_validation_loss_over_seeds_is_picked_and_its_first_seed():
    configs = small_run.make(iterations="0 5 7", seeds="0 1")
    # Row 7 has the lowest loss of all, but not the lowest mean.
    for config, loss in zip(configs[1:], [2.0, 2.0, 1.7, 1.9, 1.2, 2.6], strict=True):
        small_run.write_log(config, loss)
    assert named([ablation.pick(configs)]) == [("5", 0)]
    small_run.write_log(configs[6], 2.2)
    assert named([ablation.pick(configs)]) == [("7", 0)]


def test_test_scores_play_no_part_in_the_choice():
    configs = small_run.make(iterations="0 5")
    small_run.write_log(configs[2], 2.0)
    for scores in ((10, 90), (90, 10)):
        for config, level in zip(configs[1:], scores, strict=True):
            small_run.write_scores(config, level)
        assert ablation.pick(configs).iteration == "5"


def test_a_study_is_never_picked_over_a_row_of_table_2():
    configs = small_run.make(iterations="0", studies="loraplus")
    for config in configs[1:]:
        small_run.write_log(config, {"0": 3.0, "5": 2.0}.get(config.iteration, 1.0))
    assert ablation.pick(configs).iteration == "5"


def test_without_a_row_of_table_2_the_first_training_is_picked():
    configs = small_run.make(iterations="bos_two loraplus_ratio1")
    small_run.write_log(configs[2], 1.0)
    assert ablation.pick(configs).iteration == "bos_two"


def test_a_recipe_can_be_picked_and_a_try_never():
    asked = small_run.make(studies="recipe tries")
    for config in asked[1:]:
        small_run.write_log(config, {"5": 2.0, "recipe_loraplus": 1.5}.get(config.trained_as, 1.0))
    configs, failed = ablation.finished(asked)
    assert not failed and {c.iteration for c in configs} == {"base", "5", "recipe_lora", "recipe_loraplus"}
    for config in configs[1:]:
        small_run.write_log(config, {"5": 2.0, "recipe_loraplus": 1.5}.get(config.iteration, 1.8))
    assert named([ablation.pick(configs)]) == [("recipe_loraplus", 0)]


def test_tries_are_the_recipes_first_seeds_and_the_trainings_that_were_not_chosen_the_best_first():
    asked = small_run.make(studies="recipe tries", seeds="0 1")
    losses = {"recipe_lora": 2.1, "recipe_loraplus": 1.9, "tries_loraplus_ratio4": 1.8}
    for config in asked[1:]:
        small_run.write_log(config, 1.0 if config.seed else losses.get(config.trained_as, 2.2))
    table = ablation.tries(asked)
    assert table["iteration"].tolist()[:3] == ["tries_loraplus_ratio4", "recipe_loraplus", "recipe_lora"]
    # The recipes are among what was tried: once, under their own names.
    assert len(table) == len([name for name in parameters.iterations() if name.startswith("tries_")])
    other, own = table.iloc[0], table.iloc[1]
    assert (other["ratio"], own["ratio"], own["epochs"], own["rows"]) == (4.0, 16.0, 1.0, 12)
    small_run.write_json(asked[0].paths.failure("3_training_tries_loraplus_ratio4_seed0"), "no memory")
    assert ablation.tries(asked)["iteration"].tolist()[0] == "recipe_loraplus"
    assert ablation.tries(asked[:3]).empty


def test_tries_of_other_seeds_are_those_of_the_least():
    asked = small_run.make(studies="recipe tries", seeds="2 1")
    for config in asked[1:]:
        small_run.write_log(config, 3.0 if config.seed == 2 else 2.0)
    assert set(ablation.tries(asked)["validation_loss"]) == {2.0}


def test_a_recipe_without_tries_was_chosen_from_nothing():
    asked = small_run.make(studies="recipe")
    assert ablation.tries(asked).empty
    assert conclusions.tries(ablation.tries(asked), ablation.trainings(asked)) == ""


def test_the_seeds_of_each_recipe_are_together():
    found = ablation.recipes(small_run.make(studies="recipe bos", seeds="0 1 2"))
    assert {name: [config.seed for config in some] for name, some in found.items()} == {
        "recipe_lora": [0, 1, 2],
        "recipe_loraplus": [0, 1, 2],
    }


def test_the_base_asked_in_other_words_is_compared_with_the_base_alone():
    configs = small_run.make(studies="base")
    assert set(ablation.comparisons(configs, "base")["iteration"]) == {"5", "base_instructed", "base_three_examples"}
    assert ablation.comparisons(configs, "5").empty
    assert ablation.trainings(configs)["iteration"].tolist() == ["5"]


# --- Differences -----------------------------------------------------------------------------------------------------


def test_a_model_does_not_differ_from_itself():
    configs = small_run.make(iterations="4 6")
    table = ablation.comparisons(configs, "4")
    assert set(table["iteration"]) == {"6"}
    assert (table["difference"] == 0).all()
    assert (table["p_value"] == 1).all()
    assert not table["differs"].any()


def test_a_clearly_better_model_is_found_in_every_metric_and_what_is_alike_is_not():
    configs = small_run.make(iterations="0 5")
    small_run.write_completions(configs[1], lambda config, row, run: small_run.completion(configs[0], row, run))
    table = ablation.comparisons(configs, "base")
    assert [tuple(key) for key in table[["iteration", "metric"]].to_numpy()] == [
        (iteration, metric) for iteration in ("0", "5") for metric in METRICS
    ]
    assert not table.loc[table["iteration"] == "0", "differs"].any()
    better = table[table["iteration"] == "5"].set_index("metric")
    assert better["differs"].all()
    assert (better["low"].drop("loss_per_byte") > 0).all()
    assert better.loc["loss_per_byte", "high"] < 0


def test_the_rows_of_a_group_are_drawn_together():
    configs = small_run.make()
    by_row = ablation.comparisons(configs, "base").set_index("metric")
    assert (by_row["groups"] == by_row["rows"]).all()
    for config in configs:
        path = config.paths.pairs(config.name)
        pairs = pd.read_parquet(path)
        # The adapter is 0, 10, 20 or 30 points better, by group.
        better = pairs["row"] // 6 * 10 * (config.iteration == "5")
        pairs.assign(group=pairs["row"] // 6, rougeL=40.0 + better).to_parquet(path)
    table = ablation.comparisons(configs, "base").set_index("metric")
    assert (table["groups"] == 4).all() and (table["rows"] == 24).all()
    found = table.loc["rougeL"]
    assert found["difference"] == 15
    # Four groups seldom give a mean near that of one; 24 rows never do.
    assert found["low"] < 6 and found["high"] > 24


def test_comparisons_are_of_the_clean_protocol():
    configs = small_run.make()
    table = ablation.comparisons(configs, "base").set_index("metric")
    assert table.loc["rougeL", "rows"] == 24
    runs = pd.read_parquet(configs[1].paths.pairs("5_seed0", "clean")).groupby("run")["rougeL"].mean()
    assert table.loc["rougeL", "after"] == pytest.approx(runs.mean())


def test_holm_s_correction_is_over_every_row_and_metric_of_the_table():
    configs = small_run.make(iterations="0 5 7")
    # So that p-values of all sizes are corrected: row 0 is better in a few rows alone.
    small_run.write_completions(
        configs[1], lambda config, row, run: small_run.completion(config if row < 3 else configs[0], row, run)
    )
    table = ablation.comparisons(configs, "base")
    assert len(table) == 21
    assert table["p_value"].nunique() > 3
    np.testing.assert_array_equal(table["p_adjusted"], statistics.holm(table["p_value"]))
    assert (table["differs"] == (table["p_adjusted"] < 0.05)).all()


def answers(group: np.ndarray, level: np.ndarray, length: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """What the scores of a model would be made of that answers at this level: a line a row and decoding run, of five.

    Args:
        group, level, length: of each row: its group, how well it is answered (as a logit), and its bytes.
    """
    rows, tables = len(group), []
    for run in range(5):
        chance = 1 / (1 + np.exp(0.5 - level - rng.normal(0, 0.5, rows)))
        words = rng.integers(5, 30, rows)
        table = {"row": np.arange(rows), "run": run, "group": group, "bytes": length}
        table |= {"nats": length * (2 - 0.3 * level), "correct": rng.random(rows) < chance}
        table |= {name: 100 * chance ** (1 + n / 2) for n, name in enumerate(metrics.ROUGES)}
        grams = words[:, None] - np.arange(4)
        shared = rng.binomial(grams, chance[:, None] ** np.arange(1, 5))
        table |= dict(zip(metrics.BLEU_STATISTICS, [words, length // 6, *shared.T, *grams.T], strict=True))
        for n, (ours, theirs) in enumerate([(5 * words, length)] * 6 + [(words, length // 6)] * 2):
            alike = rng.binomial(np.minimum(ours, theirs), chance ** (1 + n / 3))
            table |= dict(zip(metrics.CHRF_STATISTICS[3 * n : 3 * n + 3], (ours, theirs, alike), strict=True))
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


@pytest.mark.slow
def test_two_equal_models_differ_in_at_most_one_of_twenty_comparisons_and_far_oftener_if_rows_were_the_unit(
    monkeypatch,
):
    configs = load_configs("trial", iterations="5")

    def starred(seed: int, by_row: bool) -> bool:
        """Whether two trainings of one configuration, each good at groups of its own, differ in any metric."""
        rng = np.random.default_rng(seed)
        sizes = rng.geometric(0.35, 130) + np.where(rng.random(130) < 0.05, rng.integers(5, 25, 130), 0)
        group = np.repeat(np.arange(130), sizes)
        length = rng.integers(40, 200, len(group))
        level = rng.normal(0, 0.7, 130)
        made = {c.iteration: answers(group, (level + rng.normal(0, 0.6, 130))[group], length, rng) for c in configs}
        if by_row:
            made = {name: table.assign(group=table["row"]) for name, table in made.items()}
        monkeypatch.setattr(scoring, "read_pairs", lambda config, protocol: made[config.iteration])
        return bool(ablation.comparisons(configs, "base")["differs"].any())

    assert sum(starred(seed, by_row=False) for seed in range(200)) <= 10
    # As this report did it before: the rows of a group were taken for independent ones.
    assert sum(starred(seed, by_row=True) for seed in range(50)) > 10


def test_so_many_comparisons_can_still_find_a_difference(monkeypatch):
    asked = []

    def bootstrap(before, after, names, resamples):
        asked.append(resamples)
        # The least p-value that there is.
        return pd.DataFrame({"metric": names, "p_value": 1 / (1 + resamples)})

    monkeypatch.setattr(statistics, "paired_bootstrap", bootstrap)
    configs = small_run.make(iterations="all", studies="all")
    table = ablation.comparisons(configs, "base")
    assert len(table) == (len(configs) - 1) * len(METRICS) > 100
    assert table["differs"].all()
    assert set(table["resamples"]) == set(asked)


def test_the_seeds_of_a_row_are_taken_together_as_more_runs(monkeypatch):
    given = {}

    def bootstrap(before, after, names, resamples):
        given.update(before=before, after=after)
        return pd.DataFrame({"metric": names, "p_value": 1.0})

    monkeypatch.setattr(statistics, "paired_bootstrap", bootstrap)
    configs = small_run.make(seeds="0 1")
    ablation.comparisons(configs, "base")
    assert sorted(given["before"]["run"].unique()) == [0, 1, 2]
    assert sorted(given["after"]["run"].unique()) == [0, 1, 2, 3, 4, 5]
    second = given["after"].query("run == 4")["rougeL"].to_numpy()
    np.testing.assert_array_equal(
        second, pd.read_parquet(configs[2].paths.pairs("5_seed1")).query("run == 1")["rougeL"]
    )


def test_against_a_model_that_is_not_there_nothing_is_compared():
    configs = small_run.make(iterations="0")
    assert ablation.comparisons(configs, "5").empty
    # The base is no training.
    assert ablation.comparisons(configs, "0").empty


# --- Leaks -----------------------------------------------------------------------------------------------------------


LEAKED = range(36, 42)
OVER_ALL = ("all, as tested", "all, as in Cendol")


def half_leaked(texts):
    """A run with two left-over rows of each subset that leaked and two that did not, and what the adapter writes."""
    configs = small_run.make()
    path = configs[1].paths.sample("5")
    sample = pd.read_parquet(path)
    sample.loc[sample["position"].between(30, 35), "part"] = "validation"
    sample.to_parquet(path)
    small_run.write_completions(configs[1], lambda config, row, run: texts(row))
    return configs[1]


def test_a_model_that_knows_trained_rows_by_heart_gains_from_leaked_rows_in_every_subset():
    config = half_leaked(lambda row: small_run.reference(row) if row in LEAKED else "entah apa ini ya")
    worth = ablation.leak_worth(config).set_index(["metric", "subset"])
    subsets = (*small_run.SUBSETS, *OVER_ALL)
    assert set(worth.index) == {(metric, subset) for metric in ("bleu", "rougeL") for subset in subsets}
    rouge = worth.loc["rougeL"]
    assert (rouge["apart"] == 0).all() and rouge["leaked"].to_numpy() == pytest.approx(100)
    assert (rouge["low"] > 90).all()
    assert (worth["difference"] == worth["leaked"] - worth["apart"]).all()
    assert rouge.loc[small_run.SUBSETS[0], ["groups_apart", "groups_leaked", "rows"]].tolist() == [2, 2, 4]


def test_a_model_that_has_learnt_nothing_by_heart_gains_nothing_from_leaks():
    worth = ablation.leak_worth(half_leaked(lambda row: "Jawaban soal nomor seribu."))
    rouge = worth[worth["metric"] == "rougeL"]
    # Every reference has three of the four words.
    assert rouge["apart"].to_numpy() == pytest.approx(75) and rouge["difference"].abs().max() < 1e-9


def test_over_all_subsets_weigh_as_the_rows_tested_and_as_cendol_s():
    known = {row for row in LEAKED if small_run.SUBSETS[row % 3] == "identity_prompt"}
    config = half_leaked(lambda row: small_run.reference(row) if row in known else "entah apa ini ya")
    rouge = ablation.leak_worth(config).query("metric == 'rougeL'").set_index("subset")["difference"]
    assert rouge["identity_prompt"] == pytest.approx(100) and rouge["dolly"] == 0
    assert rouge["all, as tested"] == pytest.approx(100 / 3)
    # Of identity_prompt, dolly and wikihow, Cendol has these rows.
    assert rouge["all, as in Cendol"] == pytest.approx(100 * 62_500 / (62_500 + 75_055 + 97_848))


def test_other_texts_under_cendol_s_names_are_not_weighed_as_cendol_s():
    config = half_leaked(lambda row: "entah apa ini ya")
    config = replace(config, corpus=replace(config.corpus, source="open"))
    assert "all, as in Cendol" not in set(ablation.leak_worth(config)["subset"])


def test_lora_plus_and_plain_lora_are_compared_seed_by_seed():
    scored = [
        ("recipe_lora", 0, 2.4),
        ("recipe_lora", 1, 2.5),
        ("recipe_loraplus", 1, 2.7),
        ("recipe_loraplus", 0, 2.3),
    ]
    lines = [
        {"iteration": name, "seed": seed, "protocol": "nusax", "metric": metric, "value": value + more}
        for name, seed, value in [*scored, ("base", 0, 9.0), ("recipe_lora", 2, 9.0)]
        for metric, more in (("loss_per_byte", 0.0), ("loss_per_byte_en", 5.0 * seed))
    ]
    assert ablation.plus_by_seed(pd.DataFrame(lines)) == pytest.approx([-0.1, 0.2])
    assert ablation.plus_by_seed(pd.DataFrame(lines[-2:])) == []


def test_subsets_of_one_s_own_are_not_weighed_as_cendol_s():
    config = half_leaked(lambda row: "entah apa ini ya")
    path = config.paths.pairs("5_seed0", "paper")
    pairs = pd.read_parquet(path)
    pairs.assign(subset=pairs["subset"].astype(str).replace("dolly", "tanya")).to_parquet(path)
    worth = ablation.leak_worth(config)
    assert set(worth["subset"]) == {"identity_prompt", "tanya", "wikihow", "all, as tested"}
    assert worth[["apart", "leaked", "difference"]].notna().all(axis=None)


def test_a_subset_of_which_nothing_or_all_leaked_is_not_compared():
    config = half_leaked(lambda row: "entah apa ini ya")
    path = config.paths.pairs("5_seed0", "paper")
    pairs = pd.read_parquet(path)
    pairs[(pairs["subset"] != "dolly") | pairs["row"].isin(LEAKED)].to_parquet(path)
    assert set(ablation.leak_worth(config)["subset"]) == {"identity_prompt", "wikihow", *OVER_ALL}
    pairs[pairs["row"].isin(LEAKED)].to_parquet(path)
    assert ablation.leak_worth(config).empty


def test_the_share_of_leaked_test_rows_is_counted_by_row_output_and_group():
    configs = small_run.make()
    found = ablation.leaked_share(configs[1])
    assert found.loc["clean"].tolist() == [0, 0, 0]
    assert found.loc["paper", ["row", "output", "group"]].tolist() == [6 / 12, 9 / 12, 10 / 12]


def test_rows_that_this_training_did_not_draw_leak_nothing():
    configs = small_run.make()
    path = configs[1].paths.sample("5")
    sample = pd.read_parquet(path)
    # The copied rows 24 to 29 are validated on instead.
    sample.loc[sample["position"] < 30, "part"] = "validation"
    sample.to_parquet(path)
    assert ablation.leaked_share(configs[1]).loc["paper", "row"] == 0


# --- BLEU, nested the wrong way round --------------------------------------------------------------------------------


def test_each_test_row_is_first_once_and_is_alone_scored_against_all_references():
    configs = small_run.make()
    tokenizer = loading.load_tokenizer(configs[1].model)
    path = configs[1].paths.completions("5_seed0")
    head, *lines = path.read_text().splitlines()
    said = [{**line, "ids": tokenizer(line["text"])["input_ids"]} for line in map(json.loads, lines)]
    path.write_text("\n".join([head, *map(json.dumps, said)]) + "\n")
    table = ablation.nested_bleu(configs)
    tested = small_run.TESTED["clean"]
    assert [tuple(key) for key in table[["iteration", "seed", "row"]].to_numpy()] == [
        (iteration, 0, row) for iteration in ("base", "5") for row in tested
    ]
    references = scoring.first_tokens(tokenizer, [small_run.reference(row) for row in tested], 48)
    values = [
        sacrebleu.corpus_bleu([small_run.completion(configs[1], 7, run)], [[text] for text in references]).score
        for run in range(small_run.RUNS)
    ]
    line = table.set_index(["iteration", "row"]).loc[("5", 7)]
    assert line["mean"] == pytest.approx(np.mean(values)) and line["sd"] == pytest.approx(np.std(values, ddof=1))


def test_the_order_of_completion_changes_nothing():
    configs = small_run.make()
    before = ablation.nested_bleu(configs)
    path = configs[1].paths.completions("5_seed0")
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(lines)]) + "\n")
    pd.testing.assert_frame_equal(ablation.nested_bleu(configs), before)


@pytest.mark.parametrize(
    ("means", "deviations", "of_base", "within", "explains"),
    [
        ((0, 100), (0, 20), (0, 60), (11, 11), True),
        ((0, 100), (0, 1), (0, 60), (11, 0), False),
        ((80, 100), (0, 20), (0, 60), (0, 11), False),
        # The paper's base has 24.76.
        ((0, 100), (0, 20), (0, 9), (11, 11), False),
    ],
)
def test_the_verdict_on_the_nested_call_counts_the_paper_s_values_in_its_ranges(
    means, deviations, of_base, within, explains
):
    lines = [
        pd.DataFrame({"iteration": name, "mean": np.linspace(*some, 1001), "sd": np.linspace(*deviations, 1001)})
        for name, some in (("base", of_base), ("5", means))
    ]
    found = ablation.nested_verdict(pd.concat(lines), published.table3(), "5")
    assert (found["rows"], found["models"]) == (1001, 11)
    assert (found["means_within"], found["sds_within"]) == within
    assert found["base_within"] is (of_base[1] == 60)
    assert found["explains"] is explains
    assert found["median"] == pytest.approx(np.mean(means))


def test_a_model_is_compared_with_each_answer_without_a_model_under_one_correction():
    configs = small_run.make()
    small_run.write_floors(configs[0], lambda name, row: small_run.completion(configs[1], row, 0))
    table = ablation.against_floors(configs[1])
    assert table.groupby("metric", sort=False)["iteration"].agg(list).to_dict() == {
        metric: list(floors.FLOORS) for metric in metrics.OF_COMPLETIONS
    }
    assert not table["differs"].any()
    small_run.write_floors(configs[0])
    table = ablation.against_floors(configs[1])
    assert table["differs"].all() and (table["difference"] > 0).all()
    assert np.all(table["p_adjusted"] == statistics.holm(table["p_value"]))


def test_the_base_s_answers_say_what_else_parts_leaked_rows_from_others():
    config = half_leaked(lambda row: small_run.reference(row) if row in LEAKED else "entah apa ini ya")
    base = load_configs("trial")[0]
    placebo = ablation.leak_worth(config, base)
    assert placebo["difference"].abs().max() < 5 < ablation.leak_worth(config)["difference"].min()


# --- English, studies ------------------------------------------------------------------------------------------------


def test_the_cost_in_english_is_a_line_a_model_under_its_own_name():
    configs = small_run.make(iterations="4 6")
    table = ablation.english_cost(configs)
    assert table[["iteration", "seed"]].values.tolist() == [["base", 0], ["4", 0], ["6", 0]]
    assert table["loss_per_byte_en"].tolist() == [1.5, 2.5, 2.5]
    assert table["rougeL"].tolist() == [30, 50, 50]
    assert table["english_share"].tolist() == [1 / 1.5, 0.4, 0.4]
    # The mean over decoding runs.
    assert table["indonesian_share"].tolist() == pytest.approx([0.6] * 3)
    assert table["reference_indonesian_share"].tolist() == [0.95] * 3


def test_english_scores_have_an_interval_over_the_groups_of_their_own_rows():
    configs = small_run.make()
    # Rows are 0.9 or 1.1 times their mean; of two groups, each has those of one kind.
    path = configs[0].paths.pairs("base", "english")
    pairs = pd.read_parquet(path)
    pairs.assign(group=pairs["row"] // 2 % 2).to_parquet(path)
    base, adapter = ablation.english_cost(configs).to_dict("records")
    for name, value in (("loss_per_byte_en", 1.5), ("rougeL", 30)):
        assert base[name] == value
        assert (base[f"{name}_low"], base[f"{name}_high"]) == pytest.approx((0.9 * value, 1.1 * value))
        assert 0.9 * adapter[name] < adapter[f"{name}_low"] < adapter[name] < adapter[f"{name}_high"]


def test_where_english_was_not_measured_the_language_of_the_answers_still_is():
    configs = small_run.make()
    for config in configs:
        path = config.paths.language(config.name)
        pd.read_csv(path).query("protocol == 'clean'").to_csv(path, index=False)
    table = ablation.english_cost(configs)
    assert set(table.columns) == {"iteration", "seed", "indonesian_share", "reference_indonesian_share"}


def test_a_study_is_row_5_and_its_variants_and_only_what_was_asked_for_is_there():
    configs = small_run.make(iterations="0 5", seeds="0 1", studies="sampling bos")
    found = ablation.studies(configs)
    assert list(found) == ["sampling", "bos"]
    assert named(found["bos"]) == [("5", 0), ("5", 1), ("bos_two", 0), ("bos_two", 1)]
    assert {iteration for iteration, _ in named(found["sampling"])} == {"5", "sampling_per_subset", "sampling_random"}
    assert ablation.studies(configs[:5]) == {}


def test_a_study_s_scores_are_those_of_its_trainings_and_of_the_base():
    configs = small_run.make(iterations="0 5", studies="bos")
    results = pd.concat([small_run.score_table(config, 1) for config in configs])
    found = ablation.scores_of(ablation.studies(configs)["bos"], results)
    assert set(found["iteration"]) == {"base", "5", "bos_two"}


def test_the_main_figures_show_rows_and_recipes_and_every_way_of_asking_the_base():
    configs = small_run.make(iterations="0 5", studies="bos base recipe")
    results = pd.concat([small_run.score_table(config, 1) for config in configs])
    shown = {"base", "base_instructed", "base_three_examples", "0", "5", "recipe_lora", "recipe_loraplus"}
    assert set(ablation.compared(results)["iteration"]) == shown


def test_logs_stand_below_each_other_with_the_name_of_their_training():
    configs = small_run.make(iterations="4 6", seeds="0 1")
    small_run.write_log(configs[2], 1.0)
    table = ablation.logs(configs)
    assert len(table) == 12
    ends = table.groupby(["iteration", "seed"], sort=False)["validation_loss"].last()
    assert ends.to_dict() == {("4", 0): 2.25, ("4", 1): 1.0, ("6", 0): 2.25, ("6", 1): 1.0}
