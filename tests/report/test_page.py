"""The report of a small run that was made by hand: what it says, and what it must not."""

import base64
import json
import re
import subprocess
from dataclasses import asdict, replace
from html.parser import HTMLParser
from io import StringIO

import nbformat
import numpy as np
import pandas as pd
import pytest
import small_run
from small_run import COLUMNS, HOSTILE, RUNS, score_table, training_log, write_completions, write_scores
from transformers import GenerationConfig

from lib import paths
from lib.config import STAGES, English
from lib.corpus import splits
from lib.evaluation import benchmarks, completions, floors, scoring, starters, statistics
from lib.evaluation.metrics import METRICS
from lib.model import loading, references
from lib.parameters import load_configs
from lib.preference import outcome
from lib.report import ablation, conclusions, look, page, provenance, published
from lib.storage import write_json

REPOSITORY = paths.ROOT
#: A PNG of one pixel.
DOT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


@pytest.fixture(autouse=True)
def templates(root):
    (root / "lib").symlink_to(REPOSITORY / "lib")


def write_report(configs: list, failed: dict[str, str] | None = None, asked: list | None = None) -> str:
    """The page as notebook 5 writes it, with two of its figures, which are dots here."""
    bounds = small_run.bounds()
    results = page.collect(configs, bounds)
    bounds = bounds[bounds["protocol"] == "clean"]
    picked, tried, recipes = ablation.pick(configs), ablation.tries(asked or configs), ablation.recipes(configs)
    clean = ablation.of_models(results, "clean")
    picked.paths.figures.mkdir(parents=True, exist_ok=True)
    for name in ("bleu", "rouge"):
        (picked.paths.figures / f"{name}.png").write_bytes(DOT)
    pairs = scoring.all_pairs(configs, ["clean"])
    summary = ablation.of_models(page.summarise(configs, results), "clean")
    against_base = ablation.comparisons(configs, "base")
    nested = ablation.nested_bleu([configs[0], picked])
    verdict = ablation.nested_verdict(nested, published.table3(), picked.iteration)
    against_floors, worth = ablation.against_floors(picked), ablation.leak_worth(picked)
    tables = {
        "table2": look.table2(ablation.trainings(configs), published.table2()),
        "trainings": look.trainings(ablation.trainings(configs)),
        "left_over": look.table3(summary, published.table3()),
        "table3": look.table3(pd.concat([summary, statistics.summarise(bounds, {})]), published.table3()),
        "seeds": look.spread(statistics.over_seeds(clean, pairs)),
        "against_base": look.comparisons(against_base),
        "against_5": look.comparisons(against_base),
        "against_floors": look.comparisons(against_floors),
        "leak_worth": look.leak_worth(worth, worth),
        "leaked": look.leaked(ablation.leaked_share(picked)),
        "nested": look.nested(nested, published.table3()),
        "english": look.english(ablation.english_cost(configs)),
        "tries": look.tries(tried),
        "plus": look.comparisons(ablation.comparisons([c for some in recipes.values() for c in some], "recipe_lora")),
        "benchmarks": look.benchmarked(compared := benchmarks.compare(configs[:1], [picked])),
        "every_benchmark": look.benchmark_scores(results, compared),
        "plus_benchmarks": look.benchmarked(compared),
    }
    samples = page.side_by_side([configs[0], picked])
    written = page.write(
        configs,
        picked,
        summary,
        against_base,
        against_floors,
        samples,
        tables,
        failed or {},
        verdict,
        bounds,
        compared,
        conclusions.answer(picked, compared, compared.head(0), compared.head(0), []),
        tried,
    )
    return written.read_text()


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)
        if self.lasttag in ("h2", "h3") and data.strip():
            self.headings.append((self.lasttag, data.strip()))

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def train_on_votes(config, trained_from: str, gain: float = 2.0) -> None:
    """What notebook 6 leaves, as far as the page reads it: of twenty votes ten are held out and gain so many nats."""
    after = replace(config, iteration="preference", trained_as="preference")
    small_run.write_scores(after, 50)
    small_run.write_completions(after)
    small_run.write_language(after, 2.0)
    settings = asdict(after.preference)
    record = {"final_adapter": trained_from, "preference": settings}
    write_json(after.paths.adapter(after.name) / paths.ADAPTER_RECORD, record)
    made_of = {section: asdict(getattr(config, section)) for section in STAGES["preference"]}
    write_json(after.paths.preference_settings, made_of)
    parts = ["trained on"] * 9 + ["held out"] * 10 + ["alike to a test row"]
    moved = np.where(np.arange(20) % 5 == 0, -0.5, gain)
    table = pd.DataFrame({"part": parts, "group": range(20), "adapter": "", "before": -0.5, "after": moved - 0.5})
    after.paths.voted.parent.mkdir(exist_ok=True)
    table.to_parquet(after.paths.voted)
    write_json(after.paths.stage_record("6_preference"), {"seconds": 3.0, "peak_memory_gb": 0.5})


def test_a_page_without_training_on_votes_says_nothing_of_it():
    configs = small_run.make()
    page = Page(write_report(configs))
    assert "vote" not in page.text
    assert not any("vote" in heading for _, heading in page.headings)


def test_the_page_says_whether_peoples_votes_made_it_better():
    configs = small_run.make()
    before = write_report(configs)
    results = configs[0].paths.results.read_bytes()
    train_on_votes(configs[-1], loading.fingerprint(configs[-1].paths.adapter(configs[-1].name)))
    text = write_report(configs)
    page = Page(text)
    assert ("h2", "What people's votes changed") in page.headings
    assert "Of 20 votes, 9 were trained on and 10 held out" in page.text
    assert "1 left out since a user's text in them is alike to a row that is tested on" in page.text
    assert re.search(r"In 8 of 10 held-out votes .* by \+1\.50 nats on average, 95 % interval \+0\.\d\d to", page.text)
    assert "So what the other votes taught holds for these." in page.text
    assert "finds the chosen answer the likelier in 8 of the 10 held-out votes, where it did in 0" in page.text
    assert "English takes 2.000 bits a byte, where it took 2.500" in page.text
    assert "after votes, seed 0" in page.text
    assert "artifacts/trial/adapters/preference_seed0" in page.text
    assert configs[0].paths.results.read_bytes() == results, "its scores are no row's"
    section = text[text.index("<section>\n<h2>What people's votes") :]
    section = section[: section.index("</section>") + len("</section>\n\n")]
    record = "<tr><td>6_preference</td><td>3 s, at most 0.5 GB</td></tr>\n"
    assert text.replace(section, "").replace(record, "") == before


def test_votes_that_taught_the_opposite_are_said_to():
    configs = small_run.make()
    train_on_votes(configs[-1], loading.fingerprint(configs[-1].paths.adapter(configs[-1].name)), gain=-3.0)
    assert "does not hold for these: it went the other way" in write_report(configs)


def test_training_on_votes_of_another_adapter_is_not_on_the_page():
    configs = small_run.make()
    train_on_votes(configs[-1], "another")
    assert "votes changed" not in write_report(configs)


@pytest.mark.parametrize("section", ["prompt", "evaluation", "english", "benchmarks"])
def test_votes_that_were_scored_by_other_settings_are_not_on_the_page(section):
    config = small_run.make()[-1]
    train_on_votes(config, loading.fingerprint(config.paths.adapter(config.name)))
    assert outcome.scored(config)
    known = json.loads(config.paths.preference_settings.read_text())
    write_json(config.paths.preference_settings, known | {section: {}})
    assert outcome.scored(config) is None


def test_nor_are_those_whose_scoring_was_stopped():
    config = small_run.make()[-1]
    train_on_votes(config, loading.fingerprint(config.paths.adapter(config.name)))
    write_json(config.paths.failure("6_preference"), "6_preference was stopped before it finished")
    assert outcome.scored(config) is None


def test_the_page_needs_no_network_and_runs_nothing():
    page = Page(write_report(small_run.make()))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "link", "object", "embed", "base", "form", "video", "audio", "source"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "srcset", "poster", "background", "data"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        # A mark of a figure is drawn from the same page.
        own = "#" if tag == "use" else "data:"
        assert tag == "a" or attributes.get("href", own).startswith(own)
    style = re.search(r"<style>(.*?)</style>", paths.RunPaths("trial").report.read_text(), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_text_stays_text():
    text = write_report(small_run.make())
    assert "<script>alert" not in text
    assert "<img src=http" not in text
    assert "&lt;script&gt;alert" in text
    page = Page(text)
    assert HOSTILE in page.text, "and is shown as it was written"
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    paths.RunPaths("trial").report.read_bytes().decode("utf-8", "strict")


def test_figures_of_the_run_are_embedded_and_others_left_out():
    page = Page(write_report(small_run.make()))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2, "this run has drawn BLEU and ROUGE, and nothing else"
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") for image in images)
    assert all(image["alt"] for image in images)


@pytest.mark.parametrize(("profile", "said"), [("demo", True), ("paper", False)])
def test_the_stand_ins_are_named_in_the_demo_and_only_there(profile, said, monkeypatch):
    # The paper's base model would be fetched to be named.
    monkeypatch.setattr(loading, "pinned", lambda settings: settings.base_model)
    monkeypatch.setattr(loading, "base_fingerprint", lambda settings: "f" * 64)
    monkeypatch.setattr(loading, "base_model_folder", lambda settings: paths.DEMO_BASE_MODEL)
    text = Page(write_report(small_run.make(profile))).text
    assert ("This is the demo: a test of the software, and no evidence." in text) == said
    assert ("stand-in" in text) == said
    assert ("tiruan" in text) == said


def test_metrics_whose_difference_may_be_chance_are_named():
    configs = small_run.make()
    # The adapter writes what the base writes, but for what is embedded.
    write_completions(configs[1], lambda config, row, run: small_run.completion(configs[0], row, run))
    pairs = pd.read_parquet(configs[1].paths.pairs("5_seed0"))
    pairs.assign(correct=True).to_parquet(configs[1].paths.pairs("5_seed0"))
    text = Page(write_report(configs)).text
    assert (
        "In bits a byte, BLEU, chrF++, ROUGE-1, ROUGE-2, ROUGE-L, the difference does not hold after the correction "
        "for all comparisons of the table below." in text
    )
    assert "In every metric" not in text


def test_differences_that_are_all_more_than_chance_are_said_to_be():
    assert "In every metric the difference is more than chance." in Page(write_report(small_run.make())).text


@pytest.mark.parametrize(
    ("top", "said"), [(100, "So this slip can produce numbers like the paper's"), (30, "does not account")]
)
def test_what_the_nested_call_could_explain_is_said_from_the_choices_of_the_first_row(monkeypatch, top, said):
    configs = small_run.make()
    rows = [(c.iteration, c.seed, n, top * n / 1000, 15 * n / 1000) for c in configs for n in range(1001)]
    table = pd.DataFrame(rows, columns=["iteration", "seed", "row", "mean", "sd"])
    monkeypatch.setattr(ablation, "nested_bleu", lambda _: table)
    text = Page(write_report(configs)).text
    assert said in text
    within = 11 if top == 100 else 7
    assert "what the paper has for its base is within" in text
    assert f"Of the paper's 11 values of BLEU {within} are in the first range" in text
    assert "over the 1,001 choices of the first row" in text


def test_the_room_that_the_adapter_takes_is_told_and_where_it_is_below_an_answer_without_a_model():
    configs = small_run.make()
    text = Page(write_report(configs)).text
    # From 20, the nearest prompt's answer, to 100: 41 is 26 % of the way.
    assert "the adapter takes 26.2 % in BLEU, 26.2 % in chrF++" in text
    assert re.search(r"BLEU 11\.0 \[.*?\] 41\.0 \[.*?\] 20\.0 \(nearest\) 100\.0 26\.2 % ", text)
    assert "by more than chance, in BLEU, chrF++, ROUGE-1, ROUGE-2, ROUGE-L, Weighted F1." in text
    assert "neither ahead of all" not in text and "needs no model." not in text and "below the best" not in text
    # A lookup that answers with the reference, and one that writes what the adapter writes.
    known = {"nearest": small_run.reference, "echo": lambda row: small_run.completion(configs[1], row, 0)}
    small_run.write_floors(configs[0], lambda name, row: known[name](row) if name in known else "entah")
    text = Page(write_report(configs)).text
    assert "by more than chance, in no metric." in text
    assert "In Weighted F1 it is neither ahead of all of them nor behind one, by more than chance." in text
    assert "In BLEU, chrF++, ROUGE-1, ROUGE-2, ROUGE-L it is behind one that needs no model." in text
    assert "Dalam BLEU, chrF++, ROUGE-1, ROUGE-2, ROUGE-L adapter bahkan kalah dari salah satunya." in text


def test_where_an_answer_without_a_model_is_better_no_negative_share_is_told():
    configs = small_run.make()
    write_scores(configs[1], 2)
    text = Page(write_report(configs)).text
    assert "In BLEU, chrF++, ROUGE-1, ROUGE-2, ROUGE-L, Weighted F1 the adapter is below the best of them." in text
    assert not re.search(r"takes -\d", text)


def test_a_metric_without_room_between_floor_and_reference_has_no_share():
    bounds = small_run.bounds()
    bounds.loc[(bounds["metric"] == "weighted_f1") & (bounds["iteration"] == "echo"), "value"] = 1.0
    rows = [(iteration, metric, 30.0) for iteration in ("base", "5") for metric in METRICS]
    summary = pd.DataFrame(rows, columns=["iteration", "metric", "mean"])
    found = page.verdicts(summary, pd.DataFrame({"metric": [*METRICS], "differs": True}), bounds)
    assert "share" not in found["weighted_f1"] and found["weighted_f1"]["by"] == "echo"
    assert found["bleu"]["share"] == pytest.approx((30 - 20) / (100 - 20))
    assert "floor" not in found["loss_per_byte"]


def test_what_english_was_and_became_is_in_the_lead_and_in_the_indonesian_summary():
    text = Page(write_report(small_run.make())).text
    assert (
        "English gets worse: 1.500 bits a byte become 2.500, ROUGE-L goes from 30.0 to 50.0, and 40.0 % of English "
        "prompts are answered in English, where 66.7 % were." in text
    )
    assert "Dalam bahasa Inggris angka itu berubah dari 1,500 menjadi 2,500" in text
    assert "Adapter lebih baik daripada semua jawaban tanpa model, di luar faktor kebetulan, dalam BLEU, chrF++" in text


def test_what_the_demo_s_base_was_pretrained_on_comes_from_its_own_record():
    configs = small_run.make()
    shares = page._pretrained(configs[0])
    assert shares is not None and sum(shares.values()) == pytest.approx(1)
    text = Page(write_report(configs)).text
    assert f"{100 * shares['English']:.1f} % are English conversations" in text
    assert "it was taught to answer Indonesian prompts in English" in text
    assert "never spoken to in Indonesian" not in text and "63 %" not in text


def test_the_sentence_turns_with_the_numbers():
    configs = small_run.make()
    assert "BLEU rises from 11.0 to 41.0" in Page(write_report(configs)).text
    write_scores(configs[1], 2)
    text = Page(write_report(configs)).text
    assert "BLEU falls from 11.0 to 3.0" in text
    assert "BLEU turun dari 11,0 menjadi 3,0" in text


def test_there_is_an_indonesian_summary():
    text = write_report(small_run.make())
    assert '<section lang="id">' in text
    assert "<h2>Ringkasan</h2>" in text
    assert "Nilai BLEU naik dari 11,0 menjadi 41,0" in Page(text).text


def test_the_share_of_completions_that_were_cut_is_told():
    text = Page(write_report(small_run.make())).text
    assert "25 % of the completions of base and 25 % of the completions of row 5, seed 0 used up all 48 tokens" in text


@pytest.mark.parametrize(
    ("used", "chosen", "said"),
    [
        ({}, {}, "temperature 0.6, top-k 50 and top-p 0.9 (the base model's own defaults, and those of transformers"),
        ({"top_k": 0, "top_p": 1.0}, {"top_k": 0, "top_p": 1.0}, "no top-k and no top-p (the base model's own"),
        ({"top_k": 7}, {"top_k": 7}, "where it has none; top_k set by this run)"),
        (
            {},
            {"temperature": 0.6, "top_k": 50, "top_p": 0.9},
            "top-p 0.9 (set by this run), and of the clean test rows",
        ),
        ({"greedy": True}, {"do_sample": False, "decoding_runs": 1}, "Completions are greedy: always the likeliest"),
    ],
)
def test_how_completions_were_decoded_and_who_chose_it_is_told(monkeypatch, used, chosen, said):
    monkeypatch.setattr(small_run, "DECODING", small_run.DECODING | used)
    configs = [replace(c, evaluation=replace(c.evaluation, **chosen)) for c in small_run.make()]
    assert said in Page(write_report(configs)).text


def test_what_the_base_model_asks_for_and_does_not_get_is_told(monkeypatch):
    asked = GenerationConfig(repetition_penalty=1.1)
    monkeypatch.setattr(loading, "load_generation_config", lambda settings: asked)
    text = Page(write_report(small_run.make())).text
    assert (
        "What the base model's own generation settings would give: repetition_penalty 1.1, which is not applied" in text
    )


def test_two_seeds_have_their_spread_shown_and_no_single_seed_is_regretted():
    text = Page(write_report(small_run.make(seeds="0 1"))).text
    assert "standard deviation between the means of the 2 training seeds" in text
    assert "There is one training seed" not in text
    assert "(A paired bootstrap over the test groups, with the 2 seeds of this training taken together.)" in text
    assert re.search(r"How far other trainings would differ\. .* The seeds of row 5 are 0\.\d{3} bits a byte", text)
    (paths.ROOT / "artifacts").rename(paths.ROOT / "before")
    text = Page(write_report(small_run.make())).text
    assert "There is one training seed (0)" in text
    assert "standard deviation between the means of training seeds, of which there is one" in text


def test_the_page_says_that_its_intervals_are_over_groups_of_test_rows_and_what_could_have_been_seen():
    configs = small_run.make()
    for name in (*(config.name for config in configs), floors.CEILING, *floors.FLOORS):
        pairs = pd.read_parquet(configs[0].paths.pairs(name))
        pairs.assign(group=pairs["row"] // 2).to_parquet(configs[0].paths.pairs(name))
    text = Page(write_report(configs)).text
    assert "Mean over 3 decoding runs with its 95 % interval (over groups of test rows" in text
    assert "24 rows in 12 groups, which are worth 12 of equal size" in text
    assert "Student" not in text
    assert "whole groups of test rows are drawn again with replacement" in text
    assert "the true difference that such a test, by itself, finds four times in five" in text
    assert "Where the uncertainty comes from" in text


@pytest.mark.parametrize(("after", "better"), [(1.5, True), (2.5, False)])
def test_fewer_bits_a_byte_are_better_and_more_of_any_other_metric_is(after, better):
    metrics = [*METRICS]
    rows = [(iteration, metric, value) for iteration, value in (("base", 2.0), ("5", after)) for metric in metrics]
    summary = pd.DataFrame(rows, columns=["iteration", "metric", "mean"])
    # In whatever order they come.
    comparison = pd.DataFrame({"metric": metrics[::-1], "differs": [metric == "bleu" for metric in metrics[::-1]]})
    found = page.verdicts(summary.sample(frac=1, random_state=0), comparison, small_run.bounds())
    assert {metric: line["better"] for metric, line in found.items()} == {
        metric: better == (metric == "loss_per_byte") for metric in metrics
    }
    assert {line["rises"] for line in found.values()} == {not better}
    assert [metric for metric, line in found.items() if line["differs"]] == ["bleu"]
    assert (found["rougeL"]["before"], found["rougeL"]["after"]) == (2.0, after)


def test_results_have_exactly_their_columns_base_first():
    configs = small_run.make(seeds="0 1")
    made = page.collect(configs, small_run.bounds())
    written = pd.read_csv(configs[0].paths.results, dtype={"iteration": str})
    assert list(written.columns) == COLUMNS
    pd.testing.assert_frame_equal(made, written)
    assert list(dict.fromkeys(zip(written["iteration"], written["seed"], strict=True))) == [
        ("base", 0), ("5", 0), ("5", 1), ("reference", 0), ("nearest", 0), ("random", 0), ("shuffled", 0), ("echo", 0),
    ]  # fmt: skip
    english = written[written["metric"] == "loss_per_byte_en"]
    assert english["value"].tolist() == [1.5, 2.5, 2.5] and set(english["protocol"]) == {"english"}
    assert len(written) == 3 * (2 * RUNS * len(METRICS) + 1) + len(small_run.bounds())


def test_the_summary_has_each_model_s_means_in_every_protocol_with_the_intervals_that_the_page_shows():
    configs = small_run.make(iterations="4 6", seeds="0 1")
    results = page.collect(configs, small_run.bounds())
    made = page.summarise(configs, results)
    pd.testing.assert_frame_equal(made, pd.read_csv(configs[0].paths.summary, dtype={"iteration": str}))
    assert set(zip(made["iteration"], made["seed"], strict=True)) == {
        ("base", 0), ("4", 0), ("4", 1), ("6", 0), ("6", 1),
    }  # fmt: skip
    assert set(made["protocol"]) == {"clean", "paper", "english"}
    clean = ablation.of_models(results, "clean")
    expected = statistics.summarise(clean, scoring.all_pairs(configs, ["clean"]))
    shown = ablation.of_models(made, "clean").reset_index(drop=True)
    pd.testing.assert_frame_equal(shown, expected)
    assert (shown["low"] < shown["high"]).any()


def test_rows_that_share_a_training_have_equal_scores_under_both_names():
    configs = small_run.make(iterations="4 5 6", seeds="0 1")
    write_scores(configs[2], 70)
    page.collect(configs, small_run.bounds())
    written = pd.read_csv(configs[0].paths.results, dtype={"iteration": str})
    four, six = (written[written["iteration"] == name].drop(columns="iteration") for name in ("4", "6"))
    assert len(four) == 2 * (2 * RUNS * len(METRICS) + 1)
    np.testing.assert_array_equal(four.to_numpy(), six.to_numpy())
    assert set(four["seed"]) == {0, 1}


def test_missing_scores_are_named_with_what_to_run():
    configs = small_run.make()
    configs[1].paths.scores("5_seed0").unlink()
    with pytest.raises(page.ReportError, match="no scores of 5_seed0 in run 'trial' yet: run `make report RUN=trial"):
        page.collect(configs, small_run.bounds())
    assert not configs[0].paths.results.exists()


def test_samples_are_all_of_our_own_prompts_with_what_each_model_answers_to_it():
    configs = small_run.make()
    (asked,) = completions.own_prompts().values()
    # In whatever order they were completed.
    path = configs[1].paths.completions("5_seed0", completions.OWN)
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *lines[::-1]]) + "\n")
    shown = page.side_by_side(configs)
    assert list(shown.columns) == ["subset", "prompt", "base", "row 5, seed 0"]
    assert shown["prompt"].tolist() == asked["input"].tolist()
    for row, sample in shown.iterrows():
        assert sample["base"] == small_run.answer(configs[0], row)
        assert sample["row 5, seed 0"] == small_run.answer(configs[1], row)


def test_the_page_shows_our_own_prompts_and_answers_and_where_they_are():
    configs = small_run.make()
    text = Page(write_report(configs)).text
    (asked,) = completions.own_prompts().values()
    assert "These 20 prompts are this project's own. They were fixed before any training" in text
    assert (REPOSITORY / "lib/evaluation/tables/prompts.toml").is_file()
    assert "lib/evaluation/tables/prompts.toml" in text
    assert "at most 96 of them" in text
    for row, prompt in asked["input"].items():
        assert " ".join(prompt.split()) in text
        assert all(small_run.answer(config, row) in text for config in configs)


def published_texts_of_the_corpus(files: paths.RunPaths) -> list[str]:
    """The prompts and outputs of the corpus, all of at least three words, that stand in what a run publishes."""
    page = Page(files.report.read_text())
    shown = [page.text, *(str(value) for _, attributes in page.tags for value in attributes.values())]
    shown += [path.read_text() for path in (files.results, files.manifest, *files.figures.rglob("*.svg"))]
    rows = pd.read_parquet(files.rows)
    return [text for text in (*rows["input"], *rows["output"]) if any(text in one for one in shown)]


def test_no_text_of_the_corpus_is_on_the_page_or_beside_it():
    # The adapter answers every test row with its reference, so its completions must not be there either.
    files = small_run.make()[0].paths
    text = write_report(load_configs("trial"))
    assert not published_texts_of_the_corpus(files)
    files.report.write_text(text + f"<p title='{small_run.prompt(7)}'>{small_run.reference(9)}</p>")
    assert published_texts_of_the_corpus(files) == [small_run.prompt(7), small_run.reference(9)]


def test_a_failed_row_is_named_in_the_page_with_its_reason_and_the_rest_is_there():
    configs = small_run.make(iterations="0 5")
    small_run.fail(configs[1], "3_training_0_seed0", f"cell 4: {HOSTILE}\nand more")
    left, failed = ablation.finished(configs)
    page = Page(write_report(left, failed))
    assert f"Missing from this report: row 0, seed 0, which failed (cell 4: {HOSTILE})." in page.text
    assert "script" not in {tag for tag, _ in page.tags}
    assert "BLEU rises from 11.0 to 41.0" in page.text
    assert "Missing from this report" not in Page(write_report(left)).text


def test_the_page_names_no_folder_of_the_machine_that_made_it():
    configs = small_run.make(iterations="0 5")
    write_json(configs[0].paths.asked, {"RUN": "trial", "CORPUS": "/home/me/secret/rows.jsonl"})
    small_run.fail(configs[1], "3_training_0_seed0", "cell 4: OSError: /home/me/secret/0.parquet is gone")
    left, failed = ablation.finished(configs)
    page = Page(write_report(left, failed))
    assert (
        "which failed (cell 4: OSError: 0.parquet is gone). make report RUN=trial CORPUS=rows.jsonl runs" in page.text
    )
    assert "secret" not in page.text


def test_the_picked_adapter_becomes_the_final_one_and_its_card_and_page_name_it():
    configs = small_run.make(iterations="0 5", seeds="0 1")
    for config in configs[1:3]:
        small_run.write_log(config, 1.0)
    text = Page(write_report(configs)).text
    final = configs[0].paths.final_adapter
    assert (final / "adapter_model.safetensors").read_bytes() == b"0_seed0"
    card = (final / "README.md").read_text()
    assert "row 0 of the study's Table 2, seed 0" in card
    known = statistics.intervals(scoring.read_pairs(configs[0], "clean"), ["bleu"]).iloc[0]
    own = statistics.intervals(scoring.read_pairs(configs[1], "clean"), ["bleu"]).iloc[0]
    assert own["low"] < own["high"]
    ends = [f"[{line['low']:.1f}, {line['high']:.1f}]" for line in (known, own)]
    assert f"| BLEU | 11.0 {ends[0]} | 41.0 {ends[1]} |" in card
    assert "Among 2 rows, of 4 trainings, it picks row 0, seed 0" in text
    assert "The adapter is that of the first seed, whether or not it is the best." in text
    for config in configs[1:3]:
        small_run.write_log(config, 3.0)
    assert "it picks row 5, seed 0" in Page(write_report(configs)).text
    assert (final / "adapter_model.safetensors").read_bytes() == b"5_seed0"


def test_a_folder_of_this_machine_is_not_on_the_page(root):
    corpus = str(root / "mine" / "rows.jsonl")
    configs = [replace(config, corpus=replace(config.corpus, source=corpus)) for config in small_run.make()]
    page = write_report(configs)
    assert "<code>rows.jsonl</code>" in page and str(root) not in page
    # For what comes after.
    assert json.loads(configs[0].paths.manifest.read_text())["corpus"]["source"] == corpus


def test_rows_that_share_a_training_count_as_one():
    assert "Among 3 rows, of 2 trainings, it picks" in Page(write_report(small_run.make(iterations="4 5 6"))).text


def test_the_same_files_give_the_same_results_and_page_to_the_last_byte():
    configs = small_run.make(iterations="0 5")
    first = write_report(configs), configs[0].paths.results.read_bytes()
    assert (write_report(configs), configs[0].paths.results.read_bytes()) == first


@pytest.fixture
def nothing_asked(monkeypatch):
    """The final adapter, which is a few bytes here, has answered no starter and rated no reference."""
    columns = ["kind", "prompt", "text", "usable", "fit"]
    monkeypatch.setattr(starters, "measure", lambda _: pd.DataFrame(columns=columns).astype({"usable": bool}))
    monkeypatch.setattr(references, "write", lambda _: None)


def notebook_5(**parameters: str) -> Page:
    """The page as notebook 5 writes it, whose cells run here one after the other."""
    cells = nbformat.read(REPOSITORY / "notebooks" / "5_report.ipynb", as_version=4).cells
    first, *rest = ["".join(cell.source) for cell in cells if cell.cell_type == "code"]
    assert set(re.findall(r"^(\w+) =", first, re.MULTILINE)) >= set(parameters)
    space: dict = {}
    for source in (first, "\n".join(f"{name} = {value!r}" for name, value in parameters.items()), *rest):
        exec(source, space)
    return Page(paths.RunPaths(parameters["run"]).report.read_text())


def sections(page: Page) -> list[str]:
    return [heading for tag, heading in page.headings if tag == "h2"]


EVERY_RUN = [
    "Ringkasan",
    "Which row is best, and by what rule",
    "The scores",
    "What is more than chance",
    "What leaked test rows are worth",
    "What the paper's BLEU may have been",
    "What it costs English",
    "Beside other models",
    "The method, in figures",
    "What they write",
    "What this run cannot say",
    "Where the numbers come from",
]


def test_the_page_of_one_training_has_every_section_that_it_has_data_for_and_no_other(nothing_asked):
    configs = small_run.make()
    page = notebook_5(run="trial")
    assert not published_texts_of_the_corpus(configs[0].paths)
    assert sections(page) == EVERY_RUN
    words = {heading for tag, heading in page.headings if tag == "h3"}
    assert words == {
        "Every model, beside the paper's Table 3", "On left-over rows, as the paper tests", "Against the base model",
        "Against answers without a model", "Where the uncertainty comes from",
    }  # fmt: skip
    assert "nothing to compare with" not in page.text
    words = page.text.lower().split()
    assert not [" ".join(words[n - 9 : n + 9]) for n, word in enumerate(words) if word.strip(",.[]()") == "nan"]


def test_the_page_of_many_trainings_has_every_section(nothing_asked):
    configs = small_run.make(iterations="0 5 7", seeds="0 1", studies="bos")
    small_run.fail(configs[5], "3_training_7_seed0", "cell 3: ValueError: no")
    page = notebook_5(run="trial", iterations="0 5 7", seeds="0 1", studies="bos")
    place = EVERY_RUN.index("The method, in figures")
    assert sections(page) == [*EVERY_RUN[:place], "Studies beyond the paper", *EVERY_RUN[place:]]
    words = {heading for tag, heading in page.headings if tag == "h3"}
    assert words >= {"Against row 5", "Where the uncertainty comes from"}
    assert "row 7, seed 0, which failed (cell 3: ValueError: no)" in page.text
    shown = {image.get("alt") or image["aria-label"] for tag, image in page.tags if tag in ("img", "svg")}
    assert any(alt.startswith("Row 5 with one beginning-of-text token") for alt in shown)
    assert not any("LoRA+ ratios" in alt for alt in shown)
    # Every table of the page has a name of its own, so that one's style is not another's.
    names = [attributes["id"] for tag, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names)) > 100


def test_a_figure_that_an_earlier_run_left_is_not_shown_for_what_was_not_measured(monkeypatch):
    configs = small_run.make()
    page = Page(write_report(configs))
    count = sum(tag == "img" for tag, _ in page.tags)
    (configs[1].paths.figures / "english_cost.png").write_bytes(b"old")
    assert sum(tag == "img" for tag, _ in Page(write_report(configs)).tags) == count + 1
    unasked = [replace(config, english=English()) for config in configs]
    page = Page(write_report(unasked))
    assert sum(tag == "img" for tag, _ in page.tags) == count
    assert "This run names no English rows" in page.text


def test_the_page_names_the_public_sources_of_its_corpus():
    configs = small_run.make()
    small_run.name_sources(configs[0])
    text = Page(write_report(configs)).text
    assert "They come from 2 public repositories" in text
    assert "the subsets have the names of Cendol's, and mostly other texts ( identity_prompt : answers" in text
    assert "answers (identity_prompt): 1,024 rows of example.org/someone/texts at abababab" in text
    assert "MIT. Penguji" in text


def test_benchmarks_have_a_section_their_sources_and_their_doubts():
    write = write_report(small_run.make(benchmarks="xcopa_id nusax"))
    text = Page(write).text
    assert ("h2", "Benchmarks") in Page(write).headings
    assert "the adapter is better than the base by more than chance in xcopa_id, nusax (Indonesian), and worse" in text
    assert "0.750" in text and "+0.250*" in text
    assert re.search(r"github.com/cambridgeltl/xcopa at e2e9d7f105 , CC-BY-4.0. Ponti", text)
    assert "Whether xcopa_id was new to the adapter" in text and "Whether nusax was new to the adapter" not in text
    assert "Whether the benchmarks were new to the base model" in text
    manifest = json.loads(paths.RunPaths("trial").manifest.read_text())["benchmarks"]
    assert manifest["tasks"] == ["xcopa_id", "nusax"]
    assert [one["name"] for one in manifest["sources"]] == ["xcopa_id", "nusax"]
    assert manifest["sources"][0]["licence"] == "CC-BY-4.0" and "files" not in manifest["sources"][0]


def test_reviews_are_in_the_lead_and_in_the_indonesian_summary_where_no_other_english_was_measured():
    configs = [replace(config, english=English()) for config in small_run.make(benchmarks="nusax")]
    for config in configs:
        spoken = pd.read_csv(config.paths.language(config.name))
        spoken[spoken["protocol"] != "english"].to_csv(config.paths.language(config.name), index=False)
    text = Page(write_report(configs)).text
    assert re.search(r"reviews of NusaX, which nobody here chose, \d\.\d{3} bits a byte become \d\.\d{3} in Indo", text)
    assert re.search(r"Pada ulasan NusaX berbahasa Indonesia, .* dari \d,\d{3} menjadi \d,\d{3}, dan pada ulasan", text)


def test_results_have_the_benchmarks_of_every_model_and_nothing_has_their_texts():
    write = write_report(small_run.make(benchmarks="xcopa_id nusax"))
    results = pd.read_csv(paths.RunPaths("trial").results)
    found = results[results["protocol"].isin(["xcopa_id", "nusax"])]
    assert found["metric"].tolist() == ["accuracy", "loss_per_byte", "loss_per_byte_en"] * 2
    assert found["iteration"].tolist() == ["base"] * 3 + ["5"] * 3
    assert found["value"].tolist()[::3] == [0.5, 0.75] and set(found["decoding_run"]) == {0}
    assert "Teks rahasia" not in write + paths.RunPaths("trial").results.read_text()


def test_without_benchmarks_the_page_does_not_speak_of_them():
    write = write_report(small_run.make())
    assert "enchmark" not in Page(write).text
    assert json.loads(paths.RunPaths("trial").manifest.read_text())["benchmarks"] == {"tasks": [], "sources": []}


def test_the_manifest_says_what_made_the_run():
    configs = small_run.make(seeds="0 1")
    write_report(configs)
    made = json.loads(configs[0].paths.manifest.read_text())
    assert made["run"] == "trial"
    assert made["profile"] == "demo"
    assert made["iterations"] == ["5"]
    assert made["seeds"] == [0, 1]
    assert made["git_commit"] == "unknown"
    assert made["corpus"] == {
        "source": "demo", "commit": None, "rows_read": 1234, "sha256": "f" * 64, "sources": [],
        "formats": {"JSON lines (gzip): Cendol's columns": 1234}, "set_aside": ["package.json"],
    }  # fmt: skip
    assert "read as JSON lines (gzip): Cendol's columns" in Page(configs[0].paths.report.read_text()).text
    assert made["base_model"]["source"] == "demo"
    assert set(made["adapters"]) == {"5_seed0", "5_seed1"}
    assert made["adapters"]["5_seed0"] != made["adapters"]["5_seed1"]
    assert made["decoding"] == {
        "do_sample": True, "temperature": 0.6, "top_k": 50, "top_p": 0.9, "max_new_tokens": 48, "set_by_the_run": [],
        "not_applied": {},
    }  # fmt: skip
    assert made["device"]
    assert re.fullmatch(r"3\.\d+\.\d+", made["python"])
    assert made["packages"]["torch"].startswith("2.")
    assert "absent" not in made["packages"].values()
    assert made["stages"]["4_evaluation_base"] == {"seconds": 12.0, "peak_memory_gb": 0.5}


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("model name\t: Some CPU 9 \nflags\t\t: fma amx_bf16 avx2\n", "CPU (Some CPU 9, AVX512, AMX), "),
        ("model name\t: Some CPU 9\nflags\t\t: fma avx2\n", "CPU (Some CPU 9, AVX512), "),
    ],
)
def test_a_processor_is_told_with_what_makes_it_round_as_it_does(monkeypatch, tmp_path, listed, said):
    (tmp_path / "cpuinfo").write_text(listed)
    monkeypatch.setattr(provenance, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(provenance.torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(provenance.torch.cuda, "is_available", lambda: False)
    assert provenance.device().startswith(said)


def test_the_commit_tells_of_changes(root):
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    (root / "file").write_text("one")
    (root / "reports" / "smollm2").mkdir(parents=True)
    (root / "reports" / "smollm2" / "results.csv").write_text("one")
    git("add", "file", "reports")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD").strip()
    assert provenance.git_commit() == commit
    (root / "untracked").write_text("")
    # A report that is tracked, and made again.
    (root / "reports" / "smollm2" / "results.csv").write_text("two")
    assert provenance.git_commit() == commit
    (root / "file").write_text("two")
    assert provenance.git_commit() == f"{commit}+changes"


def test_a_package_that_is_not_there_is_absent():
    assert provenance.version("no-such-package-here") == "absent"


# --- What the notebooks show -----------------------------------------------------------------------------------------


def summary_of(configs: list) -> pd.DataFrame:
    results = ablation.of_models(page.collect(configs, small_run.bounds()), "clean")
    return statistics.summarise(results, scoring.all_pairs(configs, ["clean"]))


def test_scores_are_a_row_a_metric_with_their_intervals():
    configs = small_run.make()
    table = look.scores(summary_of(configs)).data
    assert list(table.index) == ["bits a byte", "BLEU", "chrF++", "ROUGE-1", "ROUGE-2", "ROUGE-L", "Weighted F1"]
    assert list(table.columns) == ["base", "row 5, seed 0"]
    expected = statistics.intervals(scoring.read_pairs(configs[1], "clean"), ["rougeL", "loss_per_byte"])
    (low, high), (low_bits, high_bits) = expected[["low", "high"]].to_numpy()
    assert low < high
    assert table.loc["ROUGE-L", "row 5, seed 0"] == f"41.0 [{low:.1f}, {high:.1f}]"
    assert table.loc["bits a byte", "row 5, seed 0"] == f"41.000 [{low_bits:.3f}, {high_bits:.3f}]"
    # Every answer of the adapter begins with its reference: no draw of the groups could change that.
    assert table.loc["Weighted F1", "row 5, seed 0"] == "0.410 [1.000, 1.000]"


def test_a_single_decoding_run_has_an_interval_over_groups_and_scores_alone_have_none():
    configs = small_run.make()
    one = ablation.of_models(page.collect(configs, small_run.bounds()), "clean").query("decoding_run == 0")
    pairs = {key: table[table["run"] == 0] for key, table in scoring.all_pairs(configs, ["clean"]).items()}
    assert re.fullmatch(r"10\.0 \[.+\]", look.scores(statistics.summarise(one, pairs)).data.loc["BLEU", "base"])
    assert look.scores(statistics.summarise(one, {})).data.loc["BLEU", "base"] == "10.0"


def test_the_report_concludes_with_what_is_more_than_chance(tmp_path):
    against_base = pd.DataFrame(
        {
            "iteration": ["5"] * 3 + ["0"] * 3,
            "metric": ["bleu", "rouge2", "weighted_f1"] * 2,
            "difference": [3.0, 0.1, -0.2, 1.0, 1.0, 1.0],
            "differs": [True, False, True, True, True, True],
        }
    )
    config = load_configs("trial")[1]
    cost = pd.DataFrame(
        {
            "iteration": ["base", "0", "5"],
            "seed": 0,
            "loss_per_byte_en": [1.0, 9.0, 2.0],
            "english_share": [0.98, 0, 0.03],
        }
    )
    where = tmp_path / "report.html"
    lines = [
        (f, m, d, True) for f in ("nearest", "echo") for m, d in (("bleu", -1 if f == "echo" else 1), ("rougeL", 2))
    ]
    beside = pd.DataFrame(lines, columns=["iteration", "metric", "difference", "differs"])
    assert conclusions.report(config, against_base, beside, cost, where).data == (
        "**The final adapter is row 5, seed 0. On Indonesian test rows it is significantly better than the base in "
        "BLEU and worse in Weighted F1, and better than every answer without a model in ROUGE-L. English gets worse: "
        "1.000 bits a byte become 2.000, and the share of English prompts answered in English goes from "
        "98.0% to 3.0%.** The report is `report.html`."
    )
    bits = against_base.replace({"metric": {"bleu": "loss_per_byte"}})
    said = conclusions.report(config, bits, beside, cost, where).data
    assert "than the base in nothing and worse in bits a byte, Weighted F1, and" in said, "the fewer, the better"
    said = conclusions.report(
        config, against_base.assign(differs=False), beside.assign(differs=False), cost[["iteration", "seed"]], where
    ).data
    assert "in nothing and worse in nothing, and better than every answer without a model in nothing." in said
    assert "What this cost in English was not measured." in said


def test_training_concludes_with_the_loss_that_there_is():
    log = training_log()
    said = conclusions.training(log).data
    assert "validation loss falls: 3.500 before" in said
    assert "2.250 after" in said
    assert "lowest" not in said
    log["validation_loss"] = [2.0, 1.5, 2.5]
    said = conclusions.training(log).data
    assert "does not fall" in said
    assert "lowest at step 5: 1.500" in said


def test_evaluation_concludes_with_the_means_and_the_cut_share():
    configs = small_run.make()
    table = completions.read(configs[1], completions.test_rows(configs[1], splits.read(configs[1])))
    said = conclusions.evaluation(configs[1], table, score_table(configs[1], 40)).data
    assert said == (
        "**Row 5, seed 0: BLEU 41.0, ROUGE-L 41.0, Weighted F1 0.410; 25% of its completions reached "
        "the limit of 48 tokens.**"
    )


def test_hostile_text_stays_text_in_the_notebooks_too():
    configs = small_run.make()
    table = completions.read(configs[0], completions.test_rows(configs[0], splits.read(configs[0])))
    for shown in (look.completions(table.assign(text=HOSTILE), count=3), look.side_by_side(page.side_by_side(configs))):
        html = shown.to_html()
        assert "<script" not in html
        assert "<img" not in html
        assert "&lt;script&gt;alert" in html


def test_shown_completions_are_clipped_and_the_first_run_s():
    configs = small_run.make()
    table = completions.read(configs[1], completions.test_rows(configs[1], splits.read(configs[1])))
    shown = look.completions(table.assign(text=[f"{run} " + "panjang " * 100 for run in table["run"]]), count=2).data
    assert len(shown) == 2
    assert shown["text"].str.startswith("0 ").all()
    assert shown["text"].str.len().max() <= 220


def test_tokens_are_escaped_and_coloured_where_they_are_trained(tokenizer):
    from lib.model.prompts import Example

    ids = tokenizer("<b>halo</b>", add_special_tokens=False)["input_ids"]
    shown = look.loss_mask(tokenizer, Example(ids, [0] * (len(ids) - 1) + [1], False, False)).data
    assert "<b>" not in shown
    assert shown.count("#fbd9c0") == 1
    assert shown.count("#eceef0") == len(ids) - 1


def test_settings_show_the_sections_asked_for_and_no_others():
    table = look.settings(load_configs("trial")[1], "lora")
    assert table.loc[("lora", "lora_rank"), "value"] == 32
    assert {section for section, _ in table.index} == {"", "lora"}


def test_shortages_are_told():
    said = conclusions.shortages({"dolly": (100, 70)}).data
    assert "`dolly` has 70 rows on the training side where 100 were asked for" in said
    assert conclusions.shortages({}).data == "Every subset has as many rows as were asked for."


# --- A study ---------------------------------------------------------------------------------------------------------


def a_study() -> str:
    """The page of a run with recipes, tries, and the base asked in other words."""
    asked = small_run.make(studies="recipe tries base", benchmarks="xcopa_id nusax")
    for config in asked:
        if config.iteration == "recipe_loraplus":
            small_run.write_log(config, 1.5)
    question = {"question": "Does it help? At least 0.01 bits a byte.", "smallest_effect": 0.01}
    asked = [replace(config, plan=replace(config.plan, **question)) for config in asked]
    return write_report(ablation.finished(asked)[0], asked=asked)


def test_a_study_s_page_states_its_question_and_what_the_recipes_were_tried_against():
    shown = Page(a_study())
    headings = [text for _, text in shown.headings]
    for heading in ("What was asked, before this run", "What the recipes were tried against", "Every model"):
        assert heading in headings
    assert headings.count("LoRA+ against plain LoRA") == 2
    assert "Does it help? At least 0.01 bits a byte." in shown.text
    assert "Recipe LoRA+ was tried at 3 learning rates, and has the one whose validation loss was lowest" in shown.text
    assert "it picks recipe LoRA+, seed 0" in shown.text
    assert 'Base instructed is the base model with "Jawab dalam bahasa Indonesia." before every prompt.' in shown.text
    assert "Base three examples is the base model after 3 rows of the training side, with their answers." in shown.text
    assert "Validation losses in nats a token: recipe LoRA+ 1.500, " in shown.text
    assert "in its rows 16, the usual choice of LoRA+'s authors, stands in for it" in shown.text
    assert "English gets" in shown.text.partition("By the paper's own")[0]
    assert "on the Indonesian reviews of NusaX" in shown.text
    assert "Recipe LoRA+, seed 0: 10 steps" in shown.text and "lora+" not in shown.text


def test_the_page_of_plain_lora_says_so_and_names_no_ratio_of_its_own_as_the_usual_one():
    asked = small_run.make(studies="recipe", iterations="recipe_lora")
    text = Page(write_report(ablation.finished(asked)[0], asked=asked)).text
    assert "After training by plain LoRA on" in text and "dengan LoRA biasa, bukan LoRA+" in text
    assert "A and B learn at one rate (plain LoRA)" in text and "1 times faster" not in text
    assert "in its rows 16, the usual choice of LoRA+'s authors" in text


def test_a_study_s_page_has_every_way_of_asking_the_base_and_no_try_among_the_scores():
    text = a_study()
    tables = pd.read_html(StringIO(text))
    table3 = next(table for table in tables if table.iloc[:, 0].astype(str).eq("base instructed").any())
    named = table3.iloc[:, 0].tolist()
    assert named[:3] == ["base", "base instructed", "base three examples"]
    assert not any(str(name).startswith("tries") for name in named)


def test_a_page_without_a_study_speaks_of_none():
    shown = Page(write_report(small_run.make()))
    headings = " ".join(text for _, text in shown.headings)
    assert not any(word in headings for word in ("recipes", "LoRA+ against", "asked, before"))
