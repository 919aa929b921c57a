"""Our numbers beside the paper's, and beside each other."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lib.parameters import load_config
from lib.report import conclusions, look, published

OURS = pd.DataFrame(
    {
        "iteration": ["0", "5", "5", "loraplus_ratio4"],
        "seed": [0, 0, 1, 0],
        "rows": [500, 100, 100, 100],
        "steps": [63, 65, 65, 65],
        "train_loss": [1.2, 1.1, 1.15, 1.0],
        "validation_loss": [1.3, 1.25, 1.2, 1.1],
    }
)


def summary() -> pd.DataFrame:
    rows = [
        ("base", 0, "bleu", 1.234, 0.951, 1.516),
        ("base", 0, "weighted_f1", 0.1, np.nan, np.nan),
        ("base", 0, "chrf", 8.0, 7.5, 8.5),
        ("5", 0, "loss_per_byte", 1.2345, 1.2, 1.3),
        ("5", 0, "bleu", 10.0, 9.9, 10.1),
        ("loraplus_ratio4", 0, "bleu", 11.0, 10.9, 11.1),
    ]
    return pd.DataFrame(rows, columns=["iteration", "seed", "metric", "mean", "low", "high"])


def test_table_2_has_every_row_of_the_paper_and_a_line_for_each_of_our_seeds():
    table = look.table2(OURS, published.table2()).data
    assert table["", "row"].tolist() == ["0", "1", "2", "3", "4", "5", "5", "6", "7", "8", "9"]
    five = table[table["", "row"] == "5"]
    assert five["the paper", "validation loss"].tolist() == [1.495, 1.495]
    assert five["this run", "validation loss"].tolist() == [1.25, 1.2]
    assert five["this run", "rows"].tolist() == [100, 100]
    assert table[table["", "row"] == "7"]["this run", "steps"].isna().all()


def test_table_2_tells_the_sampling_in_words():
    table = look.table2(OURS, published.table2()).data.set_index(("", "row"))
    sampling = table["the paper's settings", "sampling"]
    assert sampling["0"] == "random, 50,000"
    assert sampling["2"] == "1,000 from each subset"
    assert sampling["9"] == "stratified 16.7%, K = 100, 1,000 from each"


def test_table_2_shows_what_was_not_printed_as_a_dash():
    shown = look.table2(OURS, published.table2()).to_html()
    assert "nan" not in shown.lower()
    assert ">1.551<" in shown and ">0.0001<" in shown


def test_table_3_lays_the_paper_s_numbers_as_printed_beside_ours():
    table = look.table3(summary(), published.table3()).data
    assert table.index.tolist() == ["base", "row 5, seed 0", "LoRA+ ratio4, seed 0"]
    assert table.loc["base", ("BLEU", "ours")] == "1.23\n[0.95, 1.52]"
    assert table.loc["row 5, seed 0", ("BLEU", "paper")] == "52.35 ± 3.72"
    assert table.loc["base", ("Weighted F1", "ours")] == "0.1000"
    assert table.loc["row 5, seed 0", ("bits a byte", "ours")] == "1.2345\n[1.2000, 1.3000]"
    assert table.loc["base", ("Weighted F1", "paper")] == "0.503 ± 0.003"


def test_table_3_has_a_dash_where_one_side_is_missing_and_no_empty_column():
    table = look.table3(summary(), published.table3()).data
    assert table.loc["LoRA+ ratio4, seed 0", ("BLEU", "paper")] == "-"
    assert table.loc["row 5, seed 0", ("chrF++", "ours")] == "-"
    assert ("chrF++", "paper") not in table.columns


def trainings(**losses: list[float]) -> pd.DataFrame:
    rows = [(name.removeprefix("row"), seed, loss) for name, some in losses.items() for seed, loss in enumerate(some)]
    return pd.DataFrame(rows, columns=["iteration", "seed", "validation_loss"])


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ({"row5": [1.5]}, "**It picks row 5**, the only one trained (validation loss 1.500)."),
        ({"row0": [2.0, 3.0], "row5": [1.0, 2.0]}, "**It picks row 5** among 2 rows (validation loss 1.500)."),
        ({"row5": [1.5], "loraplus_ratio1": [1.0]}, "**It picks row 5** (validation loss 1.500)."),
    ],
)
def test_the_rule_stands_before_the_row_that_it_picks_among_the_rows(losses, said):
    shown = conclusions.picked("Lowest loss.", load_config(iteration="5"), trainings(**losses)).data
    assert shown.startswith(f"Lowest loss.\n\n{said}")


def test_failures_are_told_one_a_line_and_their_absence_too():
    config = load_config(iteration="base")
    shown = conclusions.before(config, {"row 7, seed 0": "no memory", "LoRA+ ratio4, seed 1": "a disk was full"}).data
    assert shown == "- Row 7, seed 0 failed: no memory\n- LoRA+ ratio4, seed 1 failed: a disk was full"
    assert conclusions.before(config, {}).data == "Every model that was asked for has finished."


def test_a_question_that_the_profile_asked_stands_first():
    config = load_config(iteration="base")
    config = replace(config, plan=replace(config.plan, question="Does it help?"))
    assert conclusions.before(config, {}).data.startswith("> Does it help?\n\nEvery model")


def reviews(low: float, high: float) -> pd.DataFrame:
    """What NusaX says of base and adapter, as `benchmarks.compare` has it."""
    line = {"task": "nusax", "metric": "loss_per_byte", "before": 2.8, "difference": (low + high) / 2}
    other = line | {"metric": "loss_per_byte_en", "low": -9.0, "high": -8.0, "after": 0.0}
    return pd.DataFrame([other, line | {"low": low, "high": high, "after": 2.8 + line["difference"]}])


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.3, -0.2, "The adapter (row 5) is better than the base by at least the 0.1 that was said to matter:"),
        (0.1, 0.2, "The adapter (row 5) is worse than the base by at least the 0.1"),
        (-0.05, 0.05, "Between the adapter (row 5) and the base there is no difference by more than chance, nor one"),
        (-0.05, -0.02, "The adapter (row 5) is better than the base by less than the 0.1 that was said to matter, "),
        (0.02, 0.05, "The adapter (row 5) is worse than the base by less than the 0.1"),
        (-0.2, -0.05, "The adapter (row 5) is better than the base; whether by the 0.1 that was said to matter is"),
        (0.05, 0.2, "The adapter (row 5) is worse than the base; whether by the 0.1"),
        (-0.11, -0.05, "The adapter (row 5) is better than the base; whether by the 0.1"),
        (-0.2, 0.05, "It is open whether the adapter (row 5) is better than the base by the 0.1"),
        (-0.05, 0.2, "It is open whether the adapter (row 5) is worse than the base by the 0.1"),
        (-0.2, 0.2, "It is open whether the adapter (row 5) is better or worse than the base by the 0.1"),
    ],
)
def test_the_first_outcome_answers_the_question_by_its_interval(asked, low, high, said):
    nothing = pd.DataFrame()
    answer = conclusions.answer(asked, reviews(low, high), nothing, nothing, [])
    assert answer.startswith(said)
    assert ": on the Indonesian reviews of NusaX it takes" in answer
    assert f"the base 2.800 ({(low + high) / 2:+.3f}, 95 % interval {low:+.3f} to {high:+.3f})." in answer


def test_the_answer_has_lora_plus_itself_and_against_plain_lora_with_what_the_seeds_say(asked):
    plus, by_seed = reviews(-0.013, -0.005), [-0.0271, 0.0006, -0.0001]
    said = conclusions.answer(asked, reviews(-0.3, -0.2), reviews(-0.4, -0.3), plus, by_seed)
    assert said.endswith(
        " LoRA+ itself, its seeds taken together, is better than the base by at least the 0.1 that was said to "
        "matter: on the Indonesian reviews of NusaX it takes 2.450 bits a byte, the base 2.800 (-0.350, 95 % interval "
        "-0.400 to -0.300). LoRA+, the seeds of each taken together, is better than plain LoRA by less than the 0.1 "
        "that was said to matter, which counts as no difference: on the Indonesian reviews of NusaX it takes 2.791 "
        "bits a byte, plain LoRA 2.800 (-0.009, 95 % interval -0.013 to -0.005). Seed by seed this difference is "
        "-0.027, +0.001, -0.000: the interval is over reviews, for these trainings, and does not cover other seeds."
    )
    assert "Seed by seed" not in conclusions.answer(asked, plus, plus, plus, by_seed[:1])


def test_without_a_question_or_its_outcome_there_is_no_answer(asked):
    config, nothing = load_config(iteration="5"), pd.DataFrame()
    assert conclusions.answer(config, reviews(-0.3, -0.2), nothing, nothing, []) == ""
    assert conclusions.answer(asked, nothing, nothing, nothing, []) == ""
    assert conclusions.answer(asked, reviews(-0.3, -0.2).head(1), nothing, nothing, []) == ""


@pytest.fixture
def asked():
    config = load_config(iteration="5")
    return replace(config, plan=replace(config.plan, question="?", smallest_effect=0.1))


def test_what_the_rule_chose_between_is_said_the_lowest_first():
    found = trainings(row5=[3.28], recipe_loraplus=[2.85, 2.87], recipe_lora=[2.84, 2.86], loraplus_ratio1=[2.0])
    assert conclusions.chosen_from(found) == (
        "Validation losses in nats a token, the mean over seeds (and the range): recipe LoRA 2.850 (2.840 to 2.860), "
        "recipe LoRA+ 2.860 (2.850 to 2.870), row 5 3.280."
    )
    assert conclusions.chosen_from(trainings(row5=[3.1], row8=[3.0])) == (
        "Validation losses in nats a token: row 8 3.000, row 5 3.100."
    )


def test_of_one_row_nothing_was_chosen():
    assert conclusions.chosen_from(trainings(row5=[3.1, 3.2], loraplus_ratio1=[2.0])) == ""


#: Of which no difference between seeds can be told.
ONE_SEED = trainings(recipe_loraplus=[2.5])


def tried(**losses: float) -> pd.DataFrame:
    """The table of `ablation.tries` of trainings that differ in nothing but the rate, and their ratio."""
    lines = [
        {
            "name": name,
            "iteration": name,
            "learning_rate": 1e-4 * 2**n,
            "ratio": 16.0 if "plus" in name else 1.0,
            "rows": 600,
            "epochs": 1.0,
            "first": 3.7,
            "validation_loss": loss,
        }
        for n, (name, loss) in enumerate(losses.items())
    ]
    return pd.DataFrame(lines).sort_values("validation_loss", ignore_index=True)


def test_a_recipe_that_has_the_best_of_its_rates_is_said_to():
    table = tried(recipe_loraplus=2.5, tries_loraplus_low=2.6, tries_lora_low=2.9, recipe_lora=2.8, tries_lora_high=3.0)
    assert conclusions.tries(table, ONE_SEED) == (
        "Recipe LoRA+ was tried at 2 learning rates, and has the one whose validation loss was lowest (2.500). "
        "Recipe LoRA was tried at 3 learning rates, and has the one whose validation loss was lowest (2.800)."
    )


def test_a_try_with_other_rows_or_epochs_is_no_try_of_the_rate():
    table = tried(tries_loraplus_few=2.4, recipe_loraplus=2.5, tries_loraplus_long=2.6)
    table.loc[table["iteration"] == "tries_loraplus_few", "rows"] = 120
    table.loc[table["iteration"] == "tries_loraplus_long", "epochs"] = 5.0
    assert (
        conclusions.tries(table, ONE_SEED) == "The lowest validation loss of all is that of the try LoRA+ few (2.4000)."
    )


def test_a_recipe_that_has_not_the_best_of_its_rates_is_said_not_to_and_so_is_a_better_try():
    said = conclusions.tries(tried(recipe_loraplus=2.5, tries_loraplus_low=2.4), ONE_SEED)
    assert "does not have the best of them: its validation loss is 2.5000, that at 0.0002 is 2.4000." in said
    assert said.endswith("The lowest validation loss of all is that of the try LoRA+ low (2.4000).")
    assert conclusions.tries(pd.DataFrame(), ONE_SEED) == ""


def test_what_a_difference_between_single_trainings_is_worth_is_told_by_the_seeds_of_a_recipe():
    seeds = trainings(recipe_loraplus=[2.5, 2.53, 2.51], recipe_lora=[2.6, 2.61], row5=[1.0, 9.0])
    said = conclusions.tries(tried(recipe_loraplus=2.5, tries_loraplus_low=2.6), seeds)
    assert said.endswith(
        " Each is one training: the seeds of one recipe are up to 0.030 apart, and a smaller difference decides "
        "nothing."
    )


def test_tries_are_listed_with_both_rates_the_best_first():
    shown = look.tries(tried(recipe_loraplus=2.5, tries_loraplus_low=2.4)).data
    assert shown["training"].tolist() == ["tries LoRA+ low", "recipe LoRA+"]
    assert shown["learning rate of A"].tolist() == ["0.0002", "0.0001"]
    assert shown["of B"].tolist() == ["0.0032", "0.0016"]
    assert look.tries(pd.DataFrame()).data.values.tolist() == [["No recipe was tried (STUDIES)."]]


def test_every_model_has_a_line_on_the_benchmarks_and_several_seeds_a_range():
    lines = [("base", 0, 0.5), ("recipe_lora", 0, 0.6), ("recipe_lora", 1, 0.8)]
    results = pd.DataFrame(lines, columns=["iteration", "seed", "value"]).assign(protocol="xcopa_id", metric="accuracy")
    more = results.assign(protocol="clean", metric="bleu", value=9.0)
    compared = pd.DataFrame({"task": ["xcopa_id"], "metric": ["accuracy"]})
    shown = look.benchmark_scores(pd.concat([more, results]), compared).data
    assert shown["xcopa id, accuracy"].to_dict() == {"base": "0.500", "recipe LoRA": "0.700\n(0.600 to 0.800)"}
    assert list(shown) == ["xcopa id, accuracy"]


def test_test_rows_are_counted_by_subset_in_each_protocol():
    tests = {"clean": ["wikihow", "dolly", "dolly"], "paper": ["dolly", "indo_puisi"]}
    table = look.test_rows({name: pd.DataFrame({"subset_name": subsets}) for name, subsets in tests.items()})
    assert table.to_dict("index") == {
        "dolly": {"clean": 2, "paper": 1},
        "indo_puisi": {"clean": 0, "paper": 1},
        "wikihow": {"clean": 1, "paper": 0},
    }


def test_the_uncertainty_of_groups_stands_before_that_of_decoding_and_of_trainings():
    rows = [
        ("base", "bleu", 0.987, 0.123, np.nan),
        ("base", "weighted_f1", 0.021, 0.00512, np.nan),
        ("5", "bleu", np.nan, 0.4, 1.256),
        ("5", "weighted_f1", 0.02, np.nan, 0.0102),
    ]
    columns = ["iteration", "metric", "group_error", "decoding_error", "seed_sd"]
    table = look.spread(pd.DataFrame(rows, columns=columns)).data
    assert table.to_dict("index") == {
        "base": {"BLEU": "0.99 / 0.12 / -", "Weighted F1": "0.0210 / 0.0051 / -"},
        "row 5": {"BLEU": "- / 0.40 / 1.26", "Weighted F1": "0.0200 / - / 0.0102"},
    }


def test_nested_bleu_is_told_by_its_median_and_central_range_over_the_choices_beside_the_paper_s():
    rows = [("base", 0, row, float(row), 1.0) for row in range(101)] + [
        ("5", 1, row, 30.0, row / 10) for row in range(101)
    ]
    styler = look.nested(pd.DataFrame(rows, columns=["iteration", "seed", "row", "mean", "sd"]), published.table3())
    table = styler.data
    assert table.index.tolist() == ["base", "row 5, seed 1", "the paper's 11 models, as printed"]
    assert table.loc["base"].tolist() == ["50.0 [2.5, 97.5]", "1.0 [1.0, 1.0]"]
    assert table.loc["row 5, seed 1"].tolist() == ["30.0 [30.0, 30.0]", "5.0 [0.2, 9.8]"]
    assert table.columns.tolist() == ["mean over runs", "sd over runs"]
    assert "nan" not in styler.to_html()


def test_table_3_ends_with_the_answers_without_a_model_and_the_reference():
    bounds = summary().iloc[:2].assign(iteration=["nearest", "reference"], metric="bleu", mean=[9.6, 100.0])
    table = look.table3(pd.concat([summary(), bounds], ignore_index=True), published.table3()).data
    assert table.index.tolist()[-2:] == [
        "nearest: the answer of the nearest training prompt (TF-IDF)",
        "the reference itself",
    ]
    assert table.iloc[-2]["BLEU", "ours"].startswith("9.60\n[")
    assert table.iloc[-1]["BLEU", "paper"] == "-"


def differences() -> pd.DataFrame:
    rows = [
        ("5", "bleu", 12.34, 10.0, 14.0, np.nan, True, 2.86),
        ("5", "rougeL", -0.52, -1.04, 0.0, -0.123, False, 0.74),
        ("5", "weighted_f1", 0.0321, 0.01, 0.05, np.nan, True, np.nan),
        ("loraplus_ratio4", "bleu", 0.0, 0.0, 0.0, np.nan, False, np.nan),
        ("loraplus_ratio4", "rougeL", 0.0, 0.0, 0.0, np.nan, False, 1.26),
        ("loraplus_ratio4", "weighted_f1", 0.0, 0.0, 0.0, np.nan, False, np.nan),
    ]
    columns = ["iteration", "metric", "difference", "low", "high", "d_z", "differs", "detectable"]
    return pd.DataFrame(rows, columns=columns)


def test_differences_have_their_interval_and_a_star_where_they_are_more_than_chance():
    table = look.comparisons(differences()).data
    assert table.loc["row 5"].to_dict() == {
        "BLEU": "+12.3*\n[+10.0, +14.0]",
        "ROUGE-L": "-0.5\n[-1.0, +0.0]",
        "Weighted F1": "+0.032*\n[+0.010, +0.050]",
        "effect d<sub>z</sub> (ROUGE-L)": "-0.12",
    }


def test_the_last_line_is_the_largest_difference_that_a_column_needed_to_be_found():
    table = look.comparisons(differences()).data
    assert table.index.tolist() == ["row 5", "LoRA+ ratio4", "detectable"]
    assert table.loc["detectable"].to_dict() == {
        "BLEU": "2.9", "ROUGE-L": "1.3", "Weighted F1": "-", "effect d<sub>z</sub> (ROUGE-L)": "",
    }  # fmt: skip


def test_an_effect_that_is_not_defined_is_a_dash():
    table = look.comparisons(differences()).data
    assert table.loc["LoRA+ ratio4", "effect d<sub>z</sub> (ROUGE-L)"] == "-"
    assert table.loc["LoRA+ ratio4", "BLEU"] == "+0.0\n[+0.0, +0.0]"


def test_where_there_is_nothing_to_compare_with_the_table_says_so():
    assert "nothing to compare with" in look.comparisons(pd.DataFrame()).to_html()


def test_leaked_shares_are_in_per_cent():
    table = pd.DataFrame({"row": [0.0, 0.5], "output": [0.0, 2 / 3]}, index=["clean", "paper"])
    shown = look.leaked(table).to_html()
    assert ">0.0%<" in shown and ">50.0%<" in shown and ">66.7%<" in shown


def test_the_cost_in_english_is_a_line_a_model_with_shares_in_per_cent():
    table = pd.DataFrame(
        {
            "iteration": ["base", "5"],
            "seed": [0, 1],
            "indonesian_share": [0.04, 0.966],
            "reference_indonesian_share": [1.0, 1.0],
            "loss_per_byte_en": [1.2341, 2.5],
            "loss_per_byte_en_low": [1.1, 2.25],
            "loss_per_byte_en_high": [1.3, 2.75],
            "rougeL": [40.0, 20.06],
            "rougeL_low": [35.0, np.nan],
            "rougeL_high": [45.0, np.nan],
            "english_share": [0.99, 0.125],
            "reference_english_share": [1.0, 1.0],
        }
    )
    styler = look.english(table)
    assert styler.data.index.tolist() == ["base", "row 5, seed 1"]
    assert styler.data.columns[:3].tolist() == [
        "English bits a byte", "English ROUGE-L", "English answered in English",
    ]  # fmt: skip
    shown = styler.to_html()
    expected = ("1.234\n[1.100, 1.300]", "2.500\n[2.250, 2.750]", "40.0\n[35.0, 45.0]", "20.1", "12.5%", "96.6%")
    assert all(f">{value}<" in shown for value in expected)


def test_where_english_was_not_measured_only_the_language_of_the_answers_is_shown():
    table = pd.DataFrame({"iteration": ["base"], "seed": [0], "indonesian_share": [0.5]})
    assert look.english(table).data.columns.tolist() == ["Indonesian answered in Indonesian"]


def test_figures_stand_below_their_names_as_pictures():
    shown = look.figures({"bos": Figure(), "a<b": Figure()}).data
    assert shown.count("<svg") == 2
    assert shown.startswith("<h3>bos</h3><svg")
    assert "<h3>a&lt;b</h3>" in shown
    assert "<?xml" not in shown
    assert look.figures({}).data == "No study."


def test_the_same_figures_are_the_same_text():
    assert look.figures({"bos": Figure()}).data == look.figures({"bos": Figure()}).data


def compared_benchmarks() -> pd.DataFrame:
    common = {"items": 1_500, "low": -0.01, "high": 0.09, "p_value": 0.004, "alike": 3}
    return pd.DataFrame(
        [
            common
            | {
                "task": "xcopa_id",
                "metric": "accuracy",
                "chance": 0.5,
                "before": 0.5,
                "after": 0.54,
                "difference": 0.04,
            }
            | {"p_adjusted": 0.008, "differs": True, "detectable": 0.031},
            common
            | {"task": "nusax", "metric": "loss_per_byte", "before": 2.0, "after": 2.04, "difference": 0.04}
            | {"p_adjusted": 0.2, "differs": False, "detectable": np.nan},
        ]
    )


def test_a_benchmark_is_a_line_with_its_chance_its_tests_and_what_could_have_been_seen():
    shown = look.benchmarked(compared_benchmarks()).data
    assert shown.index.tolist() == ["xcopa_id", "nusax"]
    assert shown["difference"].tolist() == ["+0.040*\n[-0.010, +0.090]", "+0.040\n[-0.010, +0.090]"]
    assert shown["chance"].tolist() == ["0.500", "-"] and shown["detectable"].tolist() == ["0.031", "-"]
    assert shown["p by Holm"].tolist() == ["0.008", "0.200"] and shown["alike training rows"].tolist() == ["3", "3"]
    assert shown["items"].tolist() == ["1,500"] * 2


def test_where_there_are_no_benchmarks_one_sentence_says_so():
    for shown in (look.benchmark_scores(pd.DataFrame(), pd.DataFrame()), look.benchmarks(pd.DataFrame())):
        assert shown.data.values.tolist() == [["This run names no benchmarks (BENCHMARKS)."]]
    assert look.benchmarked(pd.DataFrame()).data.values.tolist() == [["no benchmarks to compare"]]


def test_what_benchmarks_say_turns_with_the_metric():
    table = compared_benchmarks().assign(differs=True)
    said = conclusions.benchmarks(table)
    assert said.startswith(
        "Of 2 benchmark scores the adapter is better than the base by more than chance in xcopa_id, "
    )
    assert "and worse in nusax (Indonesian). " in said
    assert "in none, and worse in none. " in conclusions.benchmarks(table.assign(differs=False))
    assert conclusions.benchmarks(pd.DataFrame()) == ""


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (0.56, "it is better than guessing in xcopa_id, and worse than guessing in none ("),
        (0.44, "it is better than guessing in none, and worse than guessing in xcopa_id ("),
        (0.52, "it is better than guessing in none, and worse than guessing in none ("),
    ],
)
def test_benchmarks_that_guessing_does_as_well_are_told(right, said):
    table = compared_benchmarks()
    table.loc[0, "after"] = right
    assert f"Of the 1 with right answers {said}exact binomial test" in conclusions.benchmarks(table)
    assert "guessing" not in conclusions.benchmarks(table.tail(1)), "bits a byte cannot be guessed"


def test_no_p_value_is_told_as_less_than_a_bootstrap_can_find():
    shown = look.benchmarked(compared_benchmarks().assign(p_value=[1 / 1001, 0.0015])).data
    assert shown["p"].tolist() == ["≤ 0.001", "0.002"]


def test_every_training_has_a_line_with_its_losses():
    table = pd.DataFrame(
        {"iteration": ["5", "recipe_loraplus"], "seed": [0, 1], "rows": [60, 400], "steps": [40, 50]}
        | {"train_loss": [2.0, 2.5], "first": [3.8, 3.8], "lowest": [3.1, 2.85], "validation_loss": [3.4, 2.85]}
    )
    assert look.trainings(table).data.values.tolist() == [
        ["row 5", 0, "60", "40", "2.000", "3.800", "3.100", "3.400"],
        ["recipe LoRA+", 1, "400", "50", "2.500", "3.800", "2.850", "2.850"],
    ]


def test_a_figure_stands_above_its_table_or_what_is_said_instead():
    table = pd.DataFrame({"a": [1]}).style
    assert look.together("no <figure>", table).data.startswith("no &lt;figure&gt;<style")
    assert look.together(None, table).data.startswith("<style")
    drawn = look.together(Figure(), table).data
    assert drawn.index("<svg") < drawn.index("<table")


def test_files_that_hold_no_rows_are_named_with_their_reasons_whole():
    reason = f"in/rows.xlsx is a spreadsheet. {'Save its sheet as CSV. ' * 9}"
    assert conclusions.set_aside({"in/rows.xlsx": reason}).data == f"- Not read: {reason}"
    assert conclusions.set_aside({}).data == "Every file of the corpus holds rows."
