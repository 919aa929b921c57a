import json
import os
from dataclasses import asdict, fields, replace

import pytest

from lib import config, parameters, paths
from lib.config import Config, ConfigError
from lib.model import packaged
from lib.parameters import load_config, load_configs
from lib.running import graph
from lib.running.graph import stage_settings


@pytest.fixture
def files(monkeypatch, root):
    """A folder of profiles and iterations with one of each, `small` and `5`."""
    folder = root / "notebooks" / "parameters"
    (folder / "iterations").mkdir(parents=True)
    (folder / "small.toml").write_text("")
    (folder / "iterations" / "5.toml").write_text("")
    monkeypatch.setattr(paths, "PARAMETERS", folder)
    return folder


def test_the_defaults_are_row_5_of_the_paper():
    config = Config()
    assert asdict(config.lora) | {"loraplus_lr_ratio": None} == {
        "lora_rank": 32, "lora_alpha": 16, "use_rslora": True, "loraplus_lr_ratio": None,
    }  # fmt: skip
    sampling = config.sampling
    assert (sampling.method, sampling.rows, sampling.clusters, sampling.rows_per_cluster) == (
        "per_subset", 3500, 10, 1000,
    )  # fmt: skip
    assert (config.training.learning_rate, config.training.schedule, config.training.epochs) == (2e-4, "cosine", 5.0)
    assert (config.prompt.date, config.prompt.max_train_tokens, config.prompt.max_evaluation_tokens) == (
        "26 July 2024", 2048, 1024,
    )  # fmt: skip
    evaluation = config.evaluation
    assert (evaluation.test_rows, evaluation.decoding_runs, evaluation.max_new_tokens) == (9800, 5, 48)
    assert (evaluation.f1_tokens, evaluation.f1_similarity) == (32, 0.5)
    assert config.model.base_model == "unsloth/Llama-3.2-1B-Instruct-bnb-4bit"
    assert config.corpus.source == "indonlp/cendol_collection_v2"
    assert config.scale == 1.0


def test_the_paper_profile_with_row_5_changes_no_default():
    assert load_config(profile="paper", iteration="5") == Config()


def test_the_profile_for_16_gb_is_the_papers_but_for_the_prompts_that_are_completed_together():
    found = load_config(run="x", profile="t4")
    whole = load_config(run="x", profile="paper")
    assert found == replace(whole, profile="t4", evaluation=replace(whole.evaluation, batch_rows=16))


def test_the_laptop_trains_the_study_s_recipes_on_400_rows_of_the_papers_corpus():
    (_, found, other), whole = load_configs(profile="laptop", seeds="0"), load_config(profile="paper")
    assert (found.iteration, other.iteration) == ("recipe_lora", "recipe_loraplus")
    assert found.corpus == other.corpus == whole.corpus
    assert other.sampled_as == "recipe_lora"
    assert found.sampling.clusters * found.sampling.rows_per_cluster == 400
    assert (found.evaluation.test_rows, found.prompt.max_train_tokens) == (80, 384)
    assert found.model.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_smollm2_is_the_study_at_six_thousandths_of_the_paper_s_rows():
    found, whole = load_configs(profile="smollm2"), load_config(profile="paper")
    row5 = next(c for c in found if c.iteration == "5")
    assert row5.model.base_model in packaged.PACKAGES and row5.corpus.source == "open"
    assert (row5.lora, replace(row5.training, dtype="auto")) == (whole.lora, whole.training)
    assert row5.sampling.clusters * row5.sampling.rows_per_cluster == 60
    recipes = [c for c in found if c.iteration.startswith("recipe_")]
    assert [(c.iteration, c.seed) for c in recipes] == [
        (f"recipe_{n}", s) for n in ("lora", "loraplus") for s in range(3)
    ]
    assert all(c.sampling.redraw and c.sampling.clusters * c.sampling.rows_per_cluster == 400 for c in recipes)


def test_the_rows_beside_the_study_are_all_ten_and_their_row_5_is_its():
    _, *found = load_configs(profile="smollm2_rows")
    assert [(c.iteration, c.seed) for c in found] == [(str(row), 0) for row in range(10)]
    (here,) = (c for c in found if c.iteration == "5")
    there = load_config(profile="smollm2", iteration="5")
    assert here.plan.smallest_effect == there.plan.smallest_effect
    assert here.plan.question != there.plan.question
    assert here == replace(there, run=here.run, profile=here.profile, plan=here.plan)


def test_plain_lora_and_lora_plus_have_as_many_tries_of_their_rates_and_differ_in_nothing_else():
    tries = [c for c in load_configs(profile="smollm2") if c.iteration.startswith(("recipe_", "tries_")) and not c.seed]
    rates = {}
    for c in tries:
        if c.training.epochs == 1 and c.lora.loraplus_lr_ratio in (1, 16):
            rest = replace(
                c, training=replace(c.training, learning_rate=1.0), iteration="", trained_as="", plan=config.Plan()
            )
            rates.setdefault(c.lora.loraplus_lr_ratio, {})[c.training.learning_rate] = rest
    assert set(rates) == {1, 16} and len(rates[1]) == len(rates[16]) >= 3
    for some in rates.values():
        assert len({str(rest) for rest in some.values()}) == 1
    plain, plus = (next(iter(some.values())) for some in rates.values())
    assert replace(plain, lora=replace(plain.lora, loraplus_lr_ratio=16.0)) == plus or plain == replace(
        plus, lora=replace(plus.lora, loraplus_lr_ratio=1.0)
    )


def test_one_beginning_of_text_token_is_the_default_and_not_the_papers_two():
    assert Config().prompt.bos_tokens == 1


@pytest.mark.parametrize("section", config.SECTIONS)
def test_every_setting_has_a_plain_default(section):
    values = asdict(getattr(Config(), section))
    assert values
    assert all(type(value) in (str, int, float, bool) for value in values.values())
    # Nothing in English belongs to the corpus, and no benchmark: empty says that it is not measured; nor does the paper
    # divide its corpus otherwise, put an instruction before its prompts, or go beyond its own rows.
    empty = {
        "corpus": ["subsets"],
        "english": ["source"],
        "benchmarks": ["tasks"],
        "evaluation": ["instruction"],
        "plan": ["studies", "question"],
    }
    assert [name for name, value in values.items() if value == ""] == empty.get(section, [])


@pytest.mark.parametrize("profile", sorted(path.stem for path in paths.PARAMETERS.glob("*.toml")))
@pytest.mark.parametrize("iteration", ["base", *parameters.iterations()])
def test_every_profile_loads_with_every_iteration(profile, iteration):
    config = load_config(profile=profile, iteration=iteration)
    assert (config.run, config.profile, config.iteration) == (profile, profile, iteration)


def test_the_profile_overrides_the_defaults(files):
    (files / "small.toml").write_text('[training]\nepochs = 2.5\nschedule = "linear"')
    training = load_config(profile="small").training
    assert (training.epochs, training.schedule, training.learning_rate) == (2.5, "linear", 2e-4)


def test_a_profile_has_what_the_one_that_it_extends_says_but_where_it_says_otherwise(files):
    (files / "small.toml").write_text("scale = 0.5\n[training]\nepochs = 2.5\nbatch_size = 3")
    (files / "other.toml").write_text('extends = "small"\n[training]\nepochs = 4.0')
    config = load_config(profile="other")
    assert (config.profile, config.run, config.scale) == ("other", "other", 0.5)
    assert (config.training.epochs, config.training.batch_size) == (4.0, 3)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('extends = "smal"', r"parameters/other\.toml: no profile 'smal'; did you mean 'small'\?"),
        ("extends = 3", r"parameters/other\.toml: extends = 3 is of type int, not str"),
        ('extends = "other"', r"parameters/other\.toml: extends = 'other', which extends another itself"),
        ('[plan]\nextends = "small"', r"parameters/other\.toml: unknown setting 'extends' in \[plan\]"),
    ],
)
def test_a_profile_that_extends_none_that_can_be_extended_says_so(files, written, said):
    (files / "other.toml").write_text(written)
    with pytest.raises(ConfigError, match=said):
        load_config(profile="other")


def test_an_error_in_a_profile_that_is_extended_names_its_file(files):
    (files / "small.toml").write_text("[lorra]\nlora_rank = 3")
    (files / "other.toml").write_text('extends = "small"')
    with pytest.raises(ConfigError, match=r"parameters/small\.toml: unknown section \[lorra\]"):
        load_config(profile="other")


def test_the_iteration_overrides_the_profile(files):
    (files / "small.toml").write_text("[training]\nepochs = 2.5\nbatch_size = 3")
    (files / "iterations" / "5.toml").write_text("[training]\nepochs = 11.6")
    training = load_config(profile="small").training
    assert (training.epochs, training.batch_size) == (11.6, 3)


def test_arguments_override_profile_and_iteration(files):
    (files / "small.toml").write_text('[corpus]\nsource = "a"\ntest_share = 0.2\n[model]\nbase_model = "b"')
    (files / "iterations" / "5.toml").write_text('[corpus]\nsource = "c"')
    config = load_config(run="mine", profile="small", corpus="d", base_model="e", seed=7)
    assert (config.corpus.source, config.corpus.test_share, config.model.base_model) == ("d", 0.2, "e")
    assert (config.run, config.seed, config.name) == ("mine", 7, "5_seed7")


def test_an_empty_argument_leaves_what_the_profile_says(files):
    (files / "small.toml").write_text('[corpus]\nsource = "a"\n[model]\nbase_model = "b"')
    config = load_config(profile="small", corpus="", base_model="")
    assert (config.corpus.source, config.model.base_model, config.run) == ("a", "b", "small")


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", "nusax"), ("none", ""), ("xcopa_id belebele_ind_Latn", "xcopa_id belebele_ind_Latn")],
)
def test_benchmarks_are_the_profiles_or_those_that_are_named_or_none(files, given, expected):
    (files / "small.toml").write_text('[benchmarks]\ntasks = "nusax"')
    assert load_config(profile="small", benchmarks=given).benchmarks.tasks == expected
    assert {config.benchmarks.tasks for config in load_configs(profile="small", benchmarks=given)} == {expected}


def test_benchmarks_make_no_training_another(files):
    one, other = (load_config(profile="small", benchmarks=given) for given in ("", "nusax"))
    assert (one.sampled_as, one.prepared_as, one.name) == (other.sampled_as, other.prepared_as, other.name)
    for stage in ("sampling", "preprocessing", "training"):
        assert stage_settings(one, stage) == stage_settings(other, stage)


@pytest.mark.parametrize(
    ("written", "wrong", "nearest"),
    [
        ("[lorra]\nlora_rank = 3", "lorra", "lora"),
        ("[lora]\nlora_rnak = 3", "lora_rnak", "lora_rank"),
        ("scal = 2.0", "scal", "scale"),
        ('[sampling]\nmethod = "statified"', "statified", "stratified"),
        ('[training]\nschedule = "cosinus"', "cosinus", "cosine"),
    ],
)
def test_an_unknown_word_in_a_profile_names_the_nearest_known_one(files, written, wrong, nearest):
    (files / "small.toml").write_text(written)
    with pytest.raises(ConfigError, match=f"'{wrong}'|\\[{wrong}\\]") as error:
        load_config(profile="small")
    assert f"did you mean '{nearest}'?" in str(error.value)


def test_an_unknown_profile_names_the_nearest(files):
    with pytest.raises(ConfigError, match=r"no profile 'smal'; did you mean 'small'\?; choose from: small"):
        load_config(profile="smal")


def test_an_unknown_iteration_names_the_nearest(files):
    (files / "iterations" / "10.toml").write_text("")
    with pytest.raises(ConfigError, match=r"no iteration '11'; did you mean '10'\?; choose from: 5, 10"):
        load_config(profile="small", iteration="11")


@pytest.mark.parametrize(
    "written",
    [
        '[lora]\nlora_rank = "32"',
        "[lora]\nlora_rank = 32.0",
        "[lora]\nuse_rslora = 1",
        "[lora]\nlora_rank = true",
        '[training]\nepochs = "5"',
        "[training]\nepochs = true",
        'scale = "1"',
        "[prompt]\ndate = 2024-07-26",
        "lora = 32",
    ],
)
def test_a_value_of_the_wrong_type_is_refused(files, written):
    (files / "small.toml").write_text(written)
    with pytest.raises(ConfigError, match="type"):
        load_config(profile="small")


def test_a_whole_number_may_stand_for_a_float(files):
    (files / "small.toml").write_text("[training]\nepochs = 3")
    epochs = load_config(profile="small").training.epochs
    assert (epochs, type(epochs)) == (3.0, float)


@pytest.mark.parametrize(
    "written",
    [
        "scale = 0.0",
        "[lora]\nlora_rank = 0",
        "[lora]\nloraplus_lr_ratio = -1.0",
        "[training]\nepochs = nan",
        "[training]\nbatch_size = 0",
        "[evaluation]\nmax_new_tokens = 0",
        "[evaluation]\nf1_tokens = 49",
        "[evaluation]\ntemperature = -0.1",
        "[evaluation]\ntop_p = 1.1",
        "[evaluation]\ntop_p = -0.1",
        "[evaluation]\ntop_k = -2",
        "[evaluation]\ndo_sample = false",
        "[corpus]\ntest_share = 0.95",
        '[sampling]\nmethod = "stratified"',
        "[prompt]\nbos_tokens = 0",
        "[prompt]\nmin_answer_tokens = 0",
        "[preference]\nbeta = 0.0",
        "[preference]\nheld_out_share = 1.0",
        "[preference]\nleast_votes = 0",
    ],
)
def test_a_value_that_makes_no_sense_is_refused(files, written):
    (files / "small.toml").write_text(written)
    with pytest.raises(ConfigError):
        load_config(profile="small")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[corpus]\ntest_share = -0.1", r"^corpus\.test_share = -0\.1 must be above 0 and below 1$"),
        ("[corpus]\nvalidation_share = 0.0", r"^corpus\.validation_share = 0\.0 must be above 0 and below 1$"),
        ("[training]\nwarmup_share = 1.0", r"^training\.warmup_share = 1\.0 must be at least 0 and below 1$"),
        ("[preference]\nwarmup_share = -0.5", r"^preference\.warmup_share = -0\.5 must be at least 0 and below 1$"),
        ("[training]\ncheckpoints = 0", r"^training\.checkpoints = 0 must be above 0$"),
        ("[evaluation]\nbatch_rows = 0", r"^evaluation\.batch_rows = 0 must be above 0$"),
        (
            "[prompt]\nmax_train_tokens = 16",
            r"^prompt\.max_train_tokens = 16 leaves no room for a prompt beside prompt\.min_answer_tokens = 16: make",
        ),
        (
            "[evaluation]\nmax_new_tokens = 1024",
            r"^prompt\.max_evaluation_tokens = 1024 leaves no room for a prompt beside an answer of 1024 tokens \(eval",
        ),
        ("[prompt]\nmax_evaluation_tokens = 96", r"beside an answer of 96 tokens \(.*and 96 on this project's own pro"),
    ],
)
def test_what_would_fail_after_hours_is_refused_in_a_sentence(files, written, said):
    (files / "small.toml").write_text(written)
    with pytest.raises(ConfigError, match=said):
        load_config(profile="small")


def test_a_profile_that_is_not_toml_is_named(files):
    (files / "small.toml").write_text("[lora")
    with pytest.raises(ConfigError, match=r"^notebooks/parameters/small\.toml: not TOML: "):
        load_config(profile="small")


def test_scale_multiplies_the_counts_of_rows_and_nothing_else(files):
    whole = asdict(load_config(run="x", profile="small"))
    (files / "small.toml").write_text("scale = 0.1")
    scaled = asdict(load_config(run="x", profile="small"))
    changed = {
        f"{section}.{key}": value
        for section in config.SECTIONS
        for key, value in scaled[section].items()
        if value != whole[section][key]
    }
    assert changed == {
        "sampling.rows": 350,
        "sampling.rows_per_cluster": 100,
        "sampling.validation_rows": 200,
        "evaluation.test_rows": 980,
        "english.rows": 100,
    }


def test_a_small_scale_leaves_at_least_one_row(files):
    (files / "small.toml").write_text("scale = 1e-6")
    assert load_config(profile="small").sampling.rows == 1


def test_a_stratified_sample_is_a_share_of_the_papers_corpus(files):
    (files / "small.toml").write_text('[sampling]\nmethod = "stratified"\nshare = 0.01')
    assert load_config(profile="small").sampling.rows == 65_426


@pytest.mark.parametrize("run", ["demo", "my-run_2.1", "2024", "_x", "r\u00e9sum\u00e9", 100 * "x"])
def test_a_run_may_be_named_with_letters_digits_and_a_few_marks(run):
    assert load_config(run=run).paths.reports.name == run


@pytest.mark.parametrize(
    "run",
    [
        *("a/b", "..", ".", ".x", "a b", "~", "$HOME", "-", "-x", "a;b", "a\nb", 101 * "x", 51 * "\u00e9"),
        *("example", "published", "bench", "embeddings", "corpora", "sources", "base_models", "hub.json", "Embeddings"),
    ],
)
def test_a_run_cannot_be_named_outside_its_folder_or_as_the_projects_own(run):
    with pytest.raises(ConfigError, match=r"cannot name a folder of results|too long to name a folder of results"):
        load_config(run=run)


def test_the_base_model_needs_no_iteration_and_is_named_base(files):
    (files / "iterations" / "5.toml").unlink()
    config = load_config(profile="small", iteration="base")
    assert config.name == "base"


def test_the_configs_of_a_run_are_the_base_and_every_iteration_with_every_seed(files):
    (files / "iterations" / "0.toml").write_text("[lora]\nlora_rank = 8")
    names = [config.name for config in load_configs(profile="small", iterations="0 5", seeds="0 1")]
    assert names == ["base", "0_seed0", "0_seed1", "5_seed0", "5_seed1"]


def test_the_base_model_is_part_of_every_run_and_asked_once(files):
    assert [config.name for config in load_configs(profile="small", iterations="base 5")] == ["base", "5_seed0"]
    with pytest.raises(ConfigError, match="name no training that is scored"):
        load_configs(profile="small", iterations="base")


@pytest.mark.parametrize("seeds", ["one", "-1", "1.5", "\u00b2", "\u0663", "4294967296", "9" * 5_000])
def test_what_no_library_takes_as_a_seed_is_refused(files, seeds):
    with pytest.raises(ConfigError, match=r"SEEDS: '.*' is no whole number from 0 to 4,294,967,295; give"):
        load_configs(profile="small", seeds=f"0 {seeds}")


def test_a_seed_that_is_written_in_two_ways_is_one(files):
    assert [c.name for c in load_configs(profile="small", seeds="7 07 4294967295")][1:] == [
        "5_seed7", "5_seed4294967295",
    ]  # fmt: skip


@pytest.mark.parametrize("section", ["corpus]\nsplit_seed", "evaluation]\ndecoding_seed"])
def test_other_seeds_have_the_same_bounds(files, section):
    (files / "small.toml").write_text(f"[{section} = -1")
    with pytest.raises(ConfigError, match=r"_seed = -1 must be a whole number from 0 to 4,294,967,295"):
        load_config(profile="small")


@pytest.mark.parametrize("lists", [{"iterations": "none"}, {"iterations": "none", "seeds": "0 1"}])
def test_a_run_without_a_training_is_refused(files, lists):
    with pytest.raises(ConfigError, match="no training"):
        load_configs(profile="small", **lists)


@pytest.mark.parametrize(
    ("stage", "sections"),
    [
        ("sampling", {"corpus", "sampling"}),
        ("preprocessing", {"model", "prompt"}),
        ("training", {"model", "prompt", "lora", "training"}),
        ("evaluation", {"model", "prompt", "evaluation", "english", "benchmarks"}),
        (
            "report",
            {"corpus", "sampling", "model", "prompt", "lora", "training", "evaluation", "english", "benchmarks"},
        ),
    ],
)
def test_a_stage_sees_only_its_own_sections(stage, sections):
    seen = stage_settings(Config(), stage)
    identity = {
        "sampling": set(),
        "preprocessing": {"sampled_as"},
        "training": {"seed", "prepared_as"},
        "evaluation": {"seed"},
        "report": {"seed", "iteration"},
    }
    assert set(seen) == {"run"} | identity[stage] | sections
    assert all(len(seen[name]) == len(fields(getattr(Config(), name))) for name in sections)


# --- Several iterations ----------------------------------------------------------------------------------------------


def test_rows_come_in_the_order_of_the_table_and_variants_after_them(files):
    for name in ("10", "9"):
        (files / "iterations" / f"{name}.toml").write_text("")
    (files / "studies" / "bos").mkdir(parents=True)
    (files / "studies" / "bos" / "two.toml").write_text("[prompt]\nbos_tokens = 2")
    assert parameters.rows() == ["5", "9", "10"]
    assert parameters.iterations() == ["5", "9", "10", "bos_two"]


def test_all_rows_are_the_ten_of_the_paper_and_no_variant():
    assert [c.iteration for c in load_configs(iterations="all")] == ["base", *"0123456789"]


def test_iterations_keep_their_order_and_count_once():
    assert [c.iteration for c in load_configs(iterations="7 5 7")] == ["base", "7", "5"]


def test_a_study_brings_its_variants_and_the_row_that_they_vary():
    loraplus = [f"loraplus_{name}" for name in ("ratio1", "ratio4", "ratio64", "unstabilised")]
    assert [c.iteration for c in load_configs(iterations="", studies="loraplus")] == ["base", "5", *loraplus]
    assert [c.iteration for c in load_configs(iterations="all", studies="bos")][-2:] == ["9", "bos_two"]


def test_all_studies_bring_every_variant():
    brought = [c.iteration for c in load_configs(iterations="5", studies="all")]
    variants = [name for name in brought if name not in ("base", "5")]
    assert brought[0] == "base" and "5" in brought
    assert sorted(set(variants)) == sorted(set(parameters.iterations()) - set(parameters.rows()))
    assert {name.split("_")[0] for name in variants} == set(config.STUDIES)


def test_a_run_is_what_its_profile_plans_where_the_command_line_says_nothing(files):
    (files / "small.toml").write_text('[plan]\niterations = "5 7"\nseeds = "0 1"\nstudies = "bos"')
    (files / "iterations" / "7.toml").write_text("")
    (files / "studies" / "bos").mkdir(parents=True)
    (files / "studies" / "bos" / "two.toml").write_text("[prompt]\nbos_tokens = 2")

    def planned(**given):
        return [(c.iteration, c.seed) for c in load_configs(profile="small", **given)[1:]]

    rows = [("5", 0), ("5", 1), ("7", 0), ("7", 1)]
    assert planned() == [*rows, ("bos_two", 0), ("bos_two", 1)]
    assert planned(studies="none") == rows
    assert planned(iterations="7", seeds="3", studies="none") == [("7", 3)]


def test_a_variant_has_the_seeds_of_its_own_file_unless_some_are_named(files):
    (files / "studies" / "recipe").mkdir(parents=True)
    (files / "studies" / "recipe" / "lora.toml").write_text('[plan]\nseeds = "0 1 2"\n[lora]\nlora_rank = 4')
    found = load_configs(profile="small", studies="recipe")
    assert [c.name for c in found] == ["base", "5_seed0", *(f"recipe_lora_seed{n}" for n in range(3))]
    found = load_configs(profile="small", studies="recipe", seeds="7")
    assert [c.name for c in found] == ["base", "5_seed7", "recipe_lora_seed7"]


def test_the_base_asked_in_other_words_is_a_model_without_an_adapter_a_seed_or_benchmarks(files):
    (files / "studies" / "base").mkdir(parents=True)
    (files / "studies" / "base" / "instructed.toml").write_text("[plan]\ntrained = false")
    found = load_configs(profile="small", studies="base", seeds="0 1", benchmarks="nusax")
    assert [c.name for c in found] == ["base", "base_instructed", "5_seed0", "5_seed1"]
    assert [c.benchmarks.tasks for c in found] == ["nusax", "", "nusax", "nusax"]
    stages = {name: need for name, (_, _, need) in graph.stages(found).items()}
    assert stages["4_evaluation_base_instructed"] == "" and "3_training_base_instructed" not in stages
    with pytest.raises(ConfigError, match="name no training that is scored"):
        load_configs(profile="small", iterations="none", studies="base")


def test_a_try_is_trained_and_not_evaluated_and_shares_an_equal_recipe_s_training(files):
    for study, name, rate in (("recipe", "lora", 3e-4), ("tries", "same", 3e-4), ("tries", "other", 1e-4)):
        (files / "studies" / study).mkdir(parents=True, exist_ok=True)
        plan = "[plan]\nscored = false\n" if study == "tries" else ""
        (files / "studies" / study / f"{name}.toml").write_text(f"{plan}[training]\nlearning_rate = {rate}")
    found = graph.stages(load_configs(profile="small", studies="recipe tries"))
    trained = {name for name in found if name.startswith("3_")}
    assert trained == {f"3_training_{name}_seed0" for name in ("5", "recipe_lora", "tries_other")}
    assert "4_evaluation_recipe_lora_seed0" in found and "4_evaluation_tries_other_seed0" not in found


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no study 'lorapuls'; did you mean 'loraplus'\?; choose from: loraplus, "):
        load_configs(studies="bos lorapuls")


@pytest.mark.parametrize("profile", ["demo", "laptop", "paper", "smollm2", "smollm2_rows", "t4"])
def test_iterations_share_what_they_have_in_common(profile):
    found = {
        c.iteration: c
        for c in load_configs(profile=profile, iterations="all", seeds="0", studies="all")
        if c.has_adapter
    }
    sampled = {name: c.sampled_as for name, c in found.items() if c.sampled_as != name}
    # The variants that change only what comes after the sampling take row 5's.
    of_row_5 = {name: "5" for name in found if name.startswith(("loraplus_", "bos_"))}
    # So do the recipes and what they were tried against, but for tries of other rows.
    alike = {name: "recipe_lora" for name in found if name.startswith(("recipe_", "tries_")) and "rows" not in name}
    del alike["recipe_lora"]
    assert sampled == {"2": "1", "6": "4", "9": "8"} | of_row_5 | alike
    prepared = {name: c.prepared_as for name, c in found.items() if c.prepared_as != name}
    assert prepared == {name: first for name, first in sampled.items() if name != "bos_two"}
    trained = {name: c.trained_as for name, c in found.items() if c.trained_as != name}
    # Each recipe is one of the tries that it was chosen from.
    assert sorted(trained.pop(name) for name in list(trained) if name in alike) == ["recipe_lora", "recipe_loraplus"]
    assert trained == {"6": "4"}


def test_what_is_shared_does_not_hang_on_which_iterations_a_run_has():
    alone = load_configs(iterations="2")[1]
    assert alone == load_configs(iterations="all")[3] == load_config(iteration="2")
    assert (alone.sampled_as, alone.prepared_as, alone.trained_as) == ("1", "1", "2")


@pytest.mark.parametrize(
    ("written", "shared"),
    [
        ("", ("4", "4", "4")),
        ("[training]\nepochs = 2.0", ("4", "4", "5")),
        # Its scores are its own, so its training is counted as its own too.
        ("[evaluation]\ndecoding_runs = 2", ("4", "4", "5")),
        ("[english]\nrows = 2", ("4", "4", "5")),
        ("[prompt]\nbos_tokens = 2", ("4", "5", "5")),
        ("[sampling]\nclusters = 2", ("5", "5", "5")),
        ("[corpus]\nsplit_seed = 2", ("5", "5", "5")),
        # No row of the sample is another one, but all counts are.
        ("scale = 0.5", ("5", "5", "5")),
    ],
)
def test_a_difference_ends_the_sharing_from_its_stage_on(files, written, shared):
    (files / "iterations" / "4.toml").write_text("")
    (files / "iterations" / "5.toml").write_text(written)
    config = load_config(profile="small", iteration="5", seed=3)
    assert (config.sampled_as, config.prepared_as, config.trained_as) == shared
    assert config.name == f"{shared[2]}_seed3"


def test_who_shares_a_stage_has_the_same_settings_for_it():
    # They are one file, whoever wrote it last.
    base, *trainings = load_configs(iterations="all", studies="all", seeds="0 1")
    written = {}
    for training in trainings:
        for name, (asked, stage, _) in graph.stages([base, training]).items():
            written.setdefault(name, []).append(stage_settings(asked, stage))
    assert len(written["1_sampling_5"]) > 2
    assert all(settings == same[0] for same in written.values() for settings in same)


def test_seeds_share_a_sample_unless_each_is_to_draw_its_own(files):
    shared = load_configs(profile="small", iterations="5", seeds="0 1")[1:]
    assert [config.sampled_as for config in shared] == ["5", "5"]
    (files / "iterations" / "5.toml").write_text("[sampling]\nredraw = true")
    drawn = load_configs(profile="small", iterations="5", seeds="0 1")[1:]
    assert [(config.sampled_as, config.prepared_as) for config in drawn] == [("5", "5"), ("5_seed1", "5_seed1")]
    names = list(graph.stages([shared[0], *drawn]))
    assert {"1_sampling_5", "1_sampling_5_seed1", "2_preprocessing_5_seed1", "3_training_5_seed1"} <= set(names)
    first, second = (stage_settings(config, "sampling") for config in drawn)
    assert first != second


def test_sharing_other_examples_is_another_training(files):
    # They may be older than the training, so their time says nothing.
    (files / "iterations" / "4.toml").write_text("")
    (files / "iterations" / "5.toml").write_text("[prompt]\nmin_answer_tokens = 8\n[sampling]\nclusters = 2")
    before = load_config(profile="small", iteration="5")
    (files / "iterations" / "5.toml").write_text("[prompt]\nmin_answer_tokens = 8")
    after = load_config(profile="small", iteration="5")
    assert stage_settings(before, "preprocessing") != stage_settings(after, "preprocessing")
    (files / "iterations" / "5.toml").write_text("[lora]\nlora_rank = 8")
    assert stage_settings(after, "training")["prepared_as"] == "5"
    assert stage_settings(load_config(profile="small", iteration="5"), "training")["prepared_as"] == "4"


def test_the_stages_of_a_run_come_after_what_they_go_on_with():
    found = graph.stages(load_configs(iterations="all", studies="all", seeds="0 1"))
    for place, (name, (_, stage, need)) in enumerate(found.items()):
        assert need in list(found)[:place] if need else stage == "sampling" or name.startswith("4_evaluation_base")
    assert found["3_training_2_seed1"][2] == "2_preprocessing_1"
    assert found["4_evaluation_2_seed1"][2] == "3_training_2_seed1"
    assert found["2_preprocessing_bos_two"][2] == "1_sampling_5"


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def write_settings(monkeypatch, files, root):
    """Run the command; return the files that it wrote anew."""

    def run(**arguments):
        given = {"run": "small", "profile": "small", "iterations": "5", "seeds": "0"} | arguments
        monkeypatch.setattr("sys.argv", ["config", *(f"--{name.replace('_', '-')}={v}" for name, v in given.items())])
        folder = root / "artifacts" / "small" / "settings"
        for path in folder.glob("*"):
            os.utime(path, (1_000, 1_000))
        graph.main()
        return {path.name for path in folder.glob("*") if path.stat().st_mtime != 1_000}

    return run


def test_the_command_writes_what_each_stage_sees(write_settings, root):
    assert write_settings() == {
        "sampling_5.json", "preprocessing_5.json", "training_5_seed0.json", "evaluation_5_seed0.json",
        "evaluation_base.json", "report.json",
    }  # fmt: skip
    written = json.loads((root / "artifacts/small/settings/training_5_seed0.json").read_text())
    assert written == stage_settings(load_config(profile="small"), "training")


def test_the_command_leaves_unchanged_files_their_time(write_settings):
    write_settings()
    assert write_settings() == set()


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("[training]\nepochs = 6.0", {"training_5_seed0.json"}),
        ("[lora]\nlora_rank = 8", {"training_5_seed0.json"}),
        ("[sampling]\nclusters = 9", {"sampling_5.json"}),
        ("[evaluation]\ndecoding_runs = 2", {"evaluation_5_seed0.json", "evaluation_base.json"}),
        ("[english]\nrows = 2", {"evaluation_5_seed0.json", "evaluation_base.json"}),
    ],
)
def test_a_changed_setting_changes_only_the_files_of_stages_that_see_it(write_settings, files, changed, stale):
    write_settings()
    (files / "small.toml").write_text(changed)
    assert write_settings() == stale | {"report.json"}


def test_another_seed_changes_no_sampling_file(write_settings):
    write_settings()
    assert write_settings(seeds="0 1") == {"training_5_seed1.json", "evaluation_5_seed1.json", "report.json"}


def test_what_iterations_share_is_one_file(write_settings, files):
    (files / "iterations" / "6.toml").write_text("[lora]\nlora_rank = 8")
    assert write_settings(iterations="all") == {
        "sampling_5.json", "preprocessing_5.json", "evaluation_base.json", "report.json",
        "training_5_seed0.json", "evaluation_5_seed0.json", "training_6_seed0.json", "evaluation_6_seed0.json",
    }  # fmt: skip
    assert write_settings(iterations="6") == {"report.json"}


def test_the_command_remembers_what_it_was_asked_for(write_settings, root, monkeypatch):
    monkeypatch.setenv("ENGINE_URL", "http://127.0.0.1:8001")
    write_settings(corpus="my rows.jsonl", seeds="0 1", base_model="x/y")
    assert paths.RunPaths("small").command == (
        "make report PROFILE=small 'CORPUS=my rows.jsonl' BASE_MODEL=x/y ITERATIONS=5 'SEEDS=0 1' "
        "ENGINE_URL=http://127.0.0.1:8001"
    )


def test_a_notebook_whose_product_is_gone_is_removed_and_no_other(write_settings, files, root):
    configs = load_configs(profile="small")
    stages = {name: (config, stage) for name, (config, stage, _) in graph.stages(configs).items()}
    stages["5_report"] = (configs[0], "report")
    notebooks = {name: configs[0].paths.reports / f"{name}.ipynb" for name in stages}
    made = {name: graph.products(*of_stage) for name, of_stage in stages.items()}
    for path in (*notebooks.values(), *(path for left in made.values() for path in left)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_settings()
    assert all(path.is_file() for path in notebooks.values())
    for name, left in made.items():
        for path in left:
            path.unlink()
            write_settings()
            assert [other for other, notebook in notebooks.items() if not notebook.is_file()] == [name], path
            path.touch()
            notebooks[name].touch()


def test_the_graph_is_printed_as_pairs_and_writes_nothing(monkeypatch, files, root, capsys):
    (files / "iterations" / "6.toml").write_text("[lora]\nlora_rank = 8")
    monkeypatch.setattr("sys.argv", ["config", "--graph", "--profile", "small", "--iterations", "6", "--seeds", "3"])
    graph.main()
    assert capsys.readouterr().out.split() == [
        "1_sampling_5:",
        "2_preprocessing_5:1_sampling_5",
        "4_evaluation_base:",
        "3_training_6_seed3:2_preprocessing_5",
        "4_evaluation_6_seed3:3_training_6_seed3",
    ]
    assert not (root / "artifacts").exists()


def test_the_command_says_what_is_wrong_without_a_traceback(write_settings):
    with pytest.raises(SystemExit, match="error: no iteration '4'"):
        write_settings(iterations="4")
