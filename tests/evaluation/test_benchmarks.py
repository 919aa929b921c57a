"""Benchmarks: their files, what is measured of a model, and how an adapter is compared with the base."""

import os
import re
import sys
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import small_adapter
import small_benchmarks
import small_run
from lm_eval.api.task import Task

from lib.config import BENCHMARKS, ConfigError
from lib.corpus import fetching
from lib.corpus.fetching import FetchError
from lib.evaluation import benchmarks, completions, harness
from lib.parameters import load_config
from lib.running import graph

FOUR = " ".join(BENCHMARKS)
TASKS = [
    "lindsea_morphology", "lindsea_argument_structure", "lindsea_filler_gap", "lindsea_npi_negation",
    "copal_id_standard", "copal_id_colloquial", "xcopa_id", "nusax", "nusax",
]  # fmt: skip


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch, tmp_path):
    """Repositories with a few items in place of the public ones; what the table says of these."""
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    real, made = benchmarks.table(), small_benchmarks.serve(tmp_path / "server")
    monkeypatch.setattr(benchmarks, "table", lambda: made)
    return real


@pytest.fixture
def config(base_model):
    return load_config("trial", "demo", "base", base_model=str(base_model), benchmarks=FOUR)


# --- The table and the names ---------------------------------------------------------------------------------------


def test_each_benchmark_of_the_table_is_pinned_licensed_and_credited(stand_ins):
    assert tuple(one.name for one in stand_ins) == BENCHMARKS
    for one in stand_ins:
        assert re.fullmatch(r"https://github.com/[\w.-]+/[\w.-]+", one.repository)
        assert re.fullmatch("[0-9a-f]{40}", one.commit)
        assert one.licence in ("CC-BY-4.0", "CC-BY-SA-4.0") and one.stated and one.attribution
        for pin in one.files:
            assert re.fullmatch("[0-9a-f]{64}", pin.sha256) and pin.bytes > 0
            assert pin.path in small_benchmarks.FILES[one.name]


def test_an_unknown_benchmark_is_refused_with_the_nearest_right_one(monkeypatch):
    monkeypatch.setattr(harness, "known", lambda: ["belebele_ind_Latn", "xcopa_it"])
    with pytest.raises(ConfigError, match="no benchmark 'belebele_id'; did you mean 'belebele_ind_Latn'"):
        benchmarks.check("lindsea belebele_id")
    with pytest.raises(ConfigError, match=r"no benchmark 'lindsey'; did you mean 'lindsea'\?; choose from: lindsea, "):
        benchmarks.check("lindsey")
    benchmarks.check("belebele_ind_Latn nusax")


@pytest.mark.parametrize(("more", "refused"), [([], True), (["--graph"], False)])
def test_a_run_with_an_unknown_benchmark_is_refused_before_anything_runs(monkeypatch, more, refused):
    monkeypatch.setattr(harness, "known", lambda: ["xcopa_it"])
    monkeypatch.setattr("sys.argv", ["graph", "--profile", "demo", "--iterations", "5", "--seeds", "0", *more])
    monkeypatch.setattr("sys.argv", [*sys.argv, "--benchmarks", "xcopa_in"])
    # The graph may be drawn before there is an environment that could be asked.
    with pytest.raises(SystemExit, match="error: BENCHMARKS='xcopa_in'") if refused else nullcontext():
        graph.main()


def test_the_four_are_known_without_asking_the_harness(monkeypatch):
    monkeypatch.setattr(harness, "known", lambda: pytest.fail("asked"))
    benchmarks.check(FOUR)


# --- One model -------------------------------------------------------------------------------------------------------


def test_every_task_is_measured_with_its_items_and_its_chance(config):
    found = benchmarks.measure(config)
    assert found["task"].tolist() == TASKS
    assert found["metric"].tolist() == ["accuracy"] * 7 + ["loss_per_byte", "loss_per_byte_en"]
    assert found["items"].tolist() == [
        *(len(small_benchmarks.pairs(kind)) for kind in ("morphology", "argument_structure")),
        *(len(small_benchmarks.pairs(kind)) for kind in ("filler-gap_dependencies", "NPIs_and_negation")),
        8, 5, 6, 8, 8,
    ]  # fmt: skip
    assert found["value"].iloc[:7].between(0, 1).all() and (found["value"].iloc[7:] > 0).all()
    assert found["chance"].fillna(-1).tolist() == [0.5] * 7 + [-1, -1]


def test_causes_are_asked_as_the_harness_asks_them(config):
    asked = {}
    for name, task in benchmarks.of_repository("copal_id").items():
        task.build_all_requests()
        asked[name] = [request.args for request in task.instances]
    assert asked["copal_id_standard"][:3] == [
        ("Tini tidur di jendela sepanjang sore karena", " tini bangun sebelum fajar menyingsing."),
        ("Tini tidur di jendela sepanjang sore karena", " hujan turun di atas atap seng."),
        ("Budi tidur di jendela sepanjang sore maka", " budi bangun sebelum fajar menyingsing."),
    ]
    assert len(asked["copal_id_colloquial"]) == 2 * 5


def test_reviews_are_whole_texts_and_only_in_two_languages(config):
    benchmarks.measure(config)
    items = benchmarks.read(config)
    reviews = items[items["task"] == "nusax"]
    own = [
        len(review[language].encode()) for language in ("indonesian", "english") for review in small_benchmarks.REVIEWS
    ]
    assert reviews["bytes"].tolist() == own
    assert reviews["item"].tolist() == [*range(8), *range(8)]
    assert "ora" not in {text for texts in reviews["texts"] for text in texts}


def test_scores_are_tidy_under_the_name_of_the_task_and_hold_no_text(config):
    measured = benchmarks.measure(config)
    found = benchmarks.scores(config)
    assert list(found.columns) == small_run.COLUMNS
    assert found["protocol"].tolist() == TASKS and set(found["decoding_run"]) == {0}
    assert found["value"].tolist() == measured["value"].tolist()
    assert set(found["iteration"]) == {"base"}
    assert not found.to_csv().count("Tini")


def test_an_adapter_is_measured_merged_and_differs_from_its_base(config):
    trained = small_run.make(base_model=config.model.base_model)[1]
    trained = load_config("trial", "demo", "5", base_model=config.model.base_model, benchmarks=FOUR)
    small_adapter.save(trained)
    base, own = benchmarks.measure(config), benchmarks.measure(trained)
    assert trained.paths.benchmarks("5_seed0").is_file()
    assert (base["value"].iloc[7:] - own["value"].iloc[7:]).abs().min() > 1e-3


def test_what_is_measured_is_not_measured_again_and_nothing_is_fetched(config, monkeypatch):
    before = benchmarks.measure(config)
    monkeypatch.setattr(completions, "load_model", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(fetching, "_git", lambda *_, **__: pytest.fail("git was started"))
    pd.testing.assert_frame_equal(benchmarks.measure(config), before)


@pytest.mark.parametrize("what", ["tasks", "table", "model"])
def test_other_tasks_another_table_or_another_model_are_measured_anew(config, monkeypatch, tmp_path, tiny_model, what):
    benchmarks.measure(config)
    if what == "tasks":
        config = load_config("trial", "demo", "base", base_model=config.model.base_model, benchmarks="nusax")
    elif what == "table":
        monkeypatch.setattr(benchmarks, "TABLE", tmp_path / "other")
        benchmarks.TABLE.write_text("changed")
    else:
        tiny_model.model.norm.weight.data.mul_(1.5)
        tiny_model.save_pretrained(config.model.base_model)
    asked = []
    score = harness.score
    monkeypatch.setattr(harness, "score", lambda *given: asked.append(given) or score(*given))
    benchmarks.measure(config)
    assert len(asked) == 1


def test_without_benchmarks_nothing_is_loaded_and_nothing_is_left(base_model, monkeypatch):
    monkeypatch.setattr(completions, "load_model", lambda *_: pytest.fail("loaded"))
    config = load_config("trial", "demo", "base", base_model=str(base_model))
    assert benchmarks.measure(config).empty and benchmarks.scores(config).empty
    assert benchmarks.compare([config], [config]).empty
    assert not config.paths.benchmarks("base").exists()


def test_a_file_that_is_not_as_pinned_is_named_with_the_table(config, monkeypatch):
    first, *others = benchmarks.table()
    wrong = first.__class__(**vars(first) | {"commit": "ab" * 20})
    monkeypatch.setattr(benchmarks, "table", lambda: (wrong, *others))
    with pytest.raises(FetchError, match=r"has no commit .* take this source out of lib/evaluation/tables/benchmarks"):
        benchmarks.measure(config)
    assert not config.paths.benchmarks("base").exists()


def test_what_is_to_be_fetched_is_counted_from_the_table(config):
    sizes = {name: sum(map(len, map(str.encode, files.values()))) for name, files in small_benchmarks.FILES.items()}
    assert benchmarks.to_fetch(FOUR) == sum(sizes.values())
    assert benchmarks.to_fetch("xcopa_id belebele_ind_Latn") == sizes["xcopa_id"]
    benchmarks.measure(config)
    assert benchmarks.to_fetch(FOUR) == 0


def test_a_group_of_the_harness_is_one_task_over_all_its_items(base_model, monkeypatch):
    def of(kind: str) -> Task:
        pairs = {"doc_to_text": "", "doc_to_target": 1, "doc_to_choice": "{{[wrong, correct]}}"}
        return harness.own(kind, small_benchmarks.pairs(kind), "multiple_choice", **pairs)

    monkeypatch.setattr(harness, "from_hub", lambda _: {kind: of(kind) for kind in ("one", "three")})
    monkeypatch.setattr(harness, "known", lambda: ["numbers"])
    config = load_config("trial", "demo", "base", base_model=str(base_model), benchmarks="numbers")
    count = len(small_benchmarks.pairs("one")) + len(small_benchmarks.pairs("three"))
    assert benchmarks.measure(config)[["task", "items"]].values.tolist() == [["numbers", count]]
    assert benchmarks.read(config)["item"].tolist() == list(range(count))


# --- Adapter against base ------------------------------------------------------------------------------------------


def write(config, correct, nats, texts=()):
    """Items of one model as `measure` writes them: of `xcopa_id`, and of Indonesian reviews of ten bytes."""
    common = {"loglikelihoods": [[0.0]], "texts": [list(texts)]}
    items = [{"task": "xcopa_id", "metric": "accuracy", "item": n, "correct": float(c)} for n, c in enumerate(correct)]
    reviews = [
        {"task": "nusax", "metric": "loss_per_byte", "item": n, "nats": v, "bytes": 10} for n, v in enumerate(nats)
    ]
    table = pd.DataFrame([line | {"chance": 0.5} for line in items] + reviews)
    for name, (value,) in common.items():
        table[name] = [value] * len(table)
    config.paths.benchmarks(config.name).parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(config.paths.benchmarks(config.name))


@pytest.fixture
def two():
    """Base and training of a run with benchmarks, without their items."""
    small_run.make()
    return [load_config("trial", "demo", name, benchmarks="xcopa_id nusax") for name in ("base", "5")]


def test_models_are_paired_by_item(two):
    base, trained = two
    write(base, [1] * 40 + [0] * 60, np.linspace(10, 20, 30))
    # Of the same items 10 are lost and 30 are won.
    write(trained, [0] * 10 + [1] * 60 + [0] * 30, np.linspace(10, 20, 30) - 1)
    choices, reviews = benchmarks.compare([base], [trained]).to_dict("records")
    assert (choices["task"], choices["metric"], choices["items"], choices["chance"]) == (
        "xcopa_id",
        "accuracy",
        100,
        0.5,
    )
    assert (choices["before"], choices["after"]) == (0.4, 0.6)
    assert (choices["right_before"], choices["right_after"]) == (10, 30)
    assert choices["difference"] == pytest.approx(0.2) and choices["low"] > 0.05 and choices["high"] < 0.35
    # 2 P(at most 10 of 40 heads).
    assert choices["p_value"] == pytest.approx(0.00222, abs=1e-5)
    assert choices["p_adjusted"] == pytest.approx(
        max(choices["p_value"], 2 * min(choices["p_value"], reviews["p_value"]))
    )
    assert choices["differs"] and reviews["differs"]
    assert (reviews["task"], reviews["metric"]) == ("nusax", "loss_per_byte")
    assert reviews["difference"] == pytest.approx(-0.1 / np.log(2))
    assert np.isnan(reviews["chance"]) and np.isnan(reviews["right_before"])


def test_equal_models_do_not_differ(two):
    for config in two:
        write(config, [1, 0] * 20, np.linspace(10, 20, 30))
    found = benchmarks.compare(two[:1], two[1:])
    assert found["difference"].tolist() == [0, 0] and not found["differs"].any()
    assert found["p_value"].iloc[0] == 1 and np.isnan(found["detectable"].iloc[0])


def test_several_seeds_are_compared_by_their_means_and_by_the_bootstrap(two):
    base, trained = two
    again = load_config("trial", "demo", "5", 1, benchmarks="xcopa_id nusax")
    write(base, [1] * 40 + [0] * 60, np.linspace(10, 20, 30))
    write(trained, [1] * 60 + [0] * 40, np.linspace(10, 20, 30) - 1)
    write(again, [0] * 20 + [1] * 80, np.linspace(10, 20, 30) - 3)
    choices, reviews = benchmarks.compare([base, base], [trained, again]).to_dict("records")
    assert (choices["before"], choices["after"]) == (0.4, pytest.approx(0.7))
    assert reviews["difference"] == pytest.approx(-0.2 / np.log(2))
    # McNemar's test is of two models' items.
    assert "right_before" not in choices and choices["p_value"] < 0.01


def test_training_rows_that_say_what_a_benchmark_says_are_counted(two):
    base, trained = two
    for config in two:
        write(config, [1, 0] * 5, np.linspace(1, 2, 5))
    assert benchmarks.compare([base], [trained])["alike"].tolist() == [0, 0]
    # As a prompt of a training row, as the output of another, and as one that is not trained on.
    long = "Jawaban panjang tentang cara menanak nasi yang pulen dan wangi di rumah sendiri"
    rows = pd.read_parquet(trained.paths.rows)
    rows.loc[24, "input"] = f"{long}!"
    rows.loc[[26, 40], "output"] = f"{long} hari ini"
    rows.to_parquet(trained.paths.rows, index=False)
    write(base, [1, 0] * 5, np.linspace(1, 2, 5), texts=[long, "Soal lain yang tidak ada di sana"])
    assert benchmarks.compare([base], [trained])["alike"].tolist() == [2, 2]
