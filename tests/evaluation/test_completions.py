import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import small_adapter
import torch
from transformers import GenerationConfig

from lib.config import OWN_TOKENS, Config, ConfigError, Evaluation, Model
from lib.corpus import selection, splits
from lib.demo import generator
from lib.evaluation import completions, likelihood, metrics, scoring
from lib.model import loading
from lib.model.prompts import encode_prompt, end_of_turn_id


@pytest.fixture
def config(base_model, root):
    """A run of the base model on a corpus of three subsets with copies."""
    config = Config(
        run="kecil",
        iteration="base",
        model=Model(str(base_model)),
        evaluation=Evaluation(test_rows=6, decoding_runs=2, max_new_tokens=6, f1_tokens=3, batch_rows=4),
    )
    # So unlike each other that no two are near-duplicates.
    rng = np.random.default_rng(0)
    unlike = [" ".join("".join(rng.choice(list("aiueokstnbm"), 6)) for _ in range(4)) for _ in range(300)]
    rows = [
        row
        for n in range(60)
        for row in [
            ("dolly", f"Apa itu benda {n}?", f"Benda {unlike[n]} itu."),
            ("wikihow", f"Bagaimana cara {n}?", f"Cara {unlike[100 + n]} begini."),
            *[("identity_prompt", f"Siapa kamu {n}?", f"Saya {unlike[200 + n]} saja.")] * 5,
        ]
    ]
    table = pd.DataFrame(rows, columns=["subset_name", "input", "output"])
    for name in set(selection.COLUMNS) - set(table.columns):
        table[name] = "x"
    config.paths.rows.parent.mkdir(parents=True)
    table.to_parquet(config.paths.rows)
    config.paths.corpus_summary.write_text(json.dumps({"fingerprint": "a"}))
    return replace(config, corpus=replace(config.corpus, test_share=0.3))


@pytest.fixture
def split(config):
    return splits.prepare(config)


@pytest.fixture
def tests(config, split):
    return completions.test_rows(config, split)


@pytest.fixture
def rows(tests):
    """Of the clean protocol."""
    return tests["clean"]


@pytest.fixture
def clean(rows):
    return {"clean": rows}


@pytest.fixture
def embedded(monkeypatch):
    """Stand in for the embedding model: texts with the same first word are alike, others not at all."""
    asked, words = [], {}

    def embed(texts, cache, exact):
        asked.append(list(texts))
        return np.array([np.eye(100)[words.setdefault(text.split()[0], len(words))] for text in texts])

    monkeypatch.setattr(scoring, "embed", embed)
    return asked


def everything(config):
    return replace(config, evaluation=replace(config.evaluation, test_rows=10_000))


def test_clean_test_rows_are_of_test_groups_only(split, rows):
    assert (split.loc[rows.index, "split"] == "test").all()
    trained = split[split["split"] == "train"]
    assert not set(split.loc[rows.index, "pair"]) & set(trained["pair"])
    assert not set(split.loc[rows.index, "group"]) & set(trained["group"])


def test_clean_test_rows_are_distinct_though_the_corpus_repeats_them(config, split):
    rows = completions.test_rows(everything(config), split)["clean"]
    assert not split.loc[rows.index, "pair"].duplicated().any()
    assert len(rows) == split.loc[split["split"] == "test", "pair"].nunique()
    assert not rows.duplicated().any()


def test_the_paper_s_test_rows_are_what_sampling_left_over_with_all_copies(config, split):
    rows = completions.test_rows(everything(config), split)["paper"]
    assert rows.index.tolist() == split.index[split["left_over"]].tolist()
    assert rows.duplicated().any()
    # As in a random split, copies of them are drawn from: they leak, and the clean ones do not.
    drawn = split[(split["split"] == "train") & ~split["left_over"]]
    assert split.loc[rows.index, "pair"].isin(drawn["pair"]).any()


def test_the_protocols_share_no_row_and_no_group(config, split):
    tests = completions.test_rows(everything(config), split)
    assert list(tests) == list(completions.PROTOCOLS)
    clean, paper = (set(split.loc[tests[name].index, "group"]) for name in ("clean", "paper"))
    assert not clean & paper


def test_greedy_rows_are_the_clean_ones(tests):
    pd.testing.assert_frame_equal(tests["greedy"], tests["clean"])


def test_what_a_completion_says_is_what_its_ids_say(config, tests):
    completions.complete(config, tests)
    before = completions.read(config, tests)
    path = config.paths.completions("base", "clean")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [lines[0], *(line | {"text": "Jawaban lain"} for line in lines[1:])]
    path.write_text("".join(json.dumps(line) + "\n" for line in changed))
    pd.testing.assert_frame_equal(completions.read(config, tests), before)


@pytest.mark.parametrize("protocol", completions.PROTOCOLS)
def test_test_rows_are_as_many_as_asked_for_and_even_over_the_subsets(tests, protocol):
    counts = tests[protocol]["subset_name"].value_counts().to_dict()
    assert counts == {"dolly": 2, "wikihow": 2, "identity_prompt": 2}


@pytest.mark.parametrize("protocol", completions.PROTOCOLS)
def test_test_rows_stand_under_their_place_in_the_corpus(config, tests, protocol):
    table, rows = pd.read_parquet(config.paths.rows), tests[protocol]
    pd.testing.assert_frame_equal(rows, table.loc[rows.index, ["subset_name", "input", "output"]], check_names=False)


def test_the_same_rows_are_tested_for_every_model(config, split, tests):
    again = completions.test_rows(replace(config, iteration="5", seed=3), split)
    for protocol, rows in tests.items():
        pd.testing.assert_frame_equal(rows, again[protocol])


def test_what_a_prompt_is_shown_before_is_an_instruction_and_short_training_rows_of_every_subset(
    config, split, clean, monkeypatch
):
    asked = replace(config.evaluation, instruction="Jawab dalam bahasa Indonesia.", shown_rows=3)
    config = replace(config, evaluation=asked)
    shown = completions.shown(config)
    table = pd.read_parquet(config.paths.rows)
    trained = table[(split["split"] == "train").to_numpy()]
    kinds = [trained.loc[(trained["input"] == a) & (trained["output"] == b), "subset_name"].iloc[0] for a, b in shown]
    assert sorted(kinds) == ["dolly", "identity_prompt", "wikihow"]
    assert completions.shown(replace(config, evaluation=replace(asked, shown_rows=0))) == []

    given = {}
    monkeypatch.setattr(
        completions.generation, "write_completions", lambda _, __, prompts, *___, **____: given.update(prompts)
    )
    completions.complete(config, clean)
    tokenizer = loading.load_tokenizer(config.model)
    for row, text in clean["clean"]["input"].items():
        turns = [
            {"role": role, "content": said}
            for pair in shown
            for role, said in zip(("user", "assistant"), pair, strict=True)
        ]
        messages = [*turns, {"role": "user", "content": f"Jawab dalam bahasa Indonesia.\n\n{text}"}]
        assert given[row] == encode_prompt(tokenizer, messages, config.prompt, 10_000)[0]


def test_every_row_of_every_protocol_is_completed_in_every_run_from_the_prompt_alone(
    config, tests, tokenizer, monkeypatch
):
    given = {}
    write = completions.generation.write_completions

    def watched(model, tokenizer, prompts, path, **options):
        given[path] = prompts
        return write(model, tokenizer, prompts, path, **options)

    monkeypatch.setattr(completions.generation, "write_completions", watched)
    completions.complete(config, tests)
    table = completions.read(config, tests)
    # Greedy completions are always the same.
    assert len(table) == 2 * 6 * 2 + 6
    assert (table["ids"].map(len) <= 6).all()
    for protocol, rows in tests.items():
        prompts = given[config.paths.completions("base", protocol)]
        for row, text in rows["input"].items():
            message = [{"role": "user", "content": text}]
            assert prompts[row] == encode_prompt(tokenizer, message, config.prompt, 1018)[0]
        part = table[table["protocol"] == protocol]
        assert sorted(zip(part["row"], part["run"], strict=True)) == sorted(
            (row, run) for row in rows.index for run in ((0,) if protocol == "greedy" else (0, 1))
        )
        for record in part.itertuples():
            assert (record.subset, record.prompt, record.reference) == tuple(rows.loc[record.row])


def test_a_conversation_is_completed_from_all_its_turns(config, tests, tokenizer, monkeypatch):
    turns = [
        {"role": role, "content": text} for role, text in [("user", "Halo"), ("assistant", "Hai."), ("user", "Ya?")]
    ]
    rows = tests["clean"].head(2).assign(turns=[None, json.dumps(turns)])
    given = {}
    monkeypatch.setattr(completions.generation, "write_completions", lambda *args, **_: given.update(args[2]))
    completions.complete(config, {"clean": rows})
    single = [{"role": "user", "content": rows["input"].iloc[0]}]
    expected = [encode_prompt(tokenizer, said, config.prompt, 1018)[0] for said in (single, turns)]
    assert [given[row] for row in rows.index] == expected


def test_a_conversation_is_not_shown_before_others(config, split):
    table = pd.read_parquet(config.paths.rows)
    table["turns"] = None
    table.loc[table["subset_name"] != "dolly", "turns"] = "[]"
    table.to_parquet(config.paths.rows)
    shown = completions.shown(replace(config, evaluation=replace(config.evaluation, shown_rows=3)))
    assert len(shown) == 3 and all(prompt.startswith("Apa itu benda") for prompt, _ in shown)


def test_no_row_that_is_tested_is_shown_before_others(config, split):
    table = pd.read_parquet(config.paths.rows)
    sides = {"left over": split["left_over"], "drawn": (split["split"] == "train") & ~split["left_over"]}
    tested, drawn = (set(table.loc[rows.to_numpy(), "input"]) for rows in sides.values())
    assert tested - drawn
    every = len(split[sides["drawn"].to_numpy()])
    shown = completions.shown(replace(config, evaluation=replace(config.evaluation, shown_rows=every)))
    assert {prompt for prompt, _ in shown} == drawn


def test_fewer_rows_to_show_than_asked_for_are_refused(config, split):
    many = replace(config, evaluation=replace(config.evaluation, shown_rows=9_000))
    with pytest.raises(
        ConfigError, match=r"^evaluation\.shown_rows = 9000, and the training side has only \d+ rows to"
    ):
        completions.shown(many)


def test_greedy_completions_are_what_transformers_generates_without_sampling(config, tests, tokenizer):
    greedy = {"greedy": tests["greedy"]}
    completions.complete(config, greedy)
    model = loading.load_base(config.model)
    ends = list(completions.decoding_of(config, model, end_of_turn_id(tokenizer, config.prompt)).end_ids)
    for record in completions.read(config, greedy).itertuples():
        message = [{"role": "user", "content": record.prompt}]
        ids = encode_prompt(tokenizer, message, config.prompt, 1018)[0]
        given = torch.tensor([ids])
        made = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=6, eos_token_id=ends
        )
        assert record.ids == [token for token in made[0, len(ids) :].tolist() if token not in ends]


def test_our_own_prompts_are_answered_greedily_at_more_length_and_stay_out_of_the_scores(
    config, tests, tokenizer, embedded
):
    asked = completions.own_prompts()
    completions.complete(config, tests | asked)
    used = completions.generation.read_decoding(config.paths.completions("base", completions.OWN))
    assert (used.greedy, used.max_new_tokens) == (True, OWN_TOKENS)
    table = completions.read(config, asked)
    assert sorted(table["row"]) == list(range(20)), "once each"
    for record in table.itertuples():
        assert record.prompt == asked[completions.OWN].loc[record.row, "input"]
    likelihood.measure(config, tests)
    assert completions.OWN not in set(scoring.score(config, completions.read(config, tests))["protocol"])


def test_our_own_prompts_are_twenty_of_all_six_kinds_and_no_row_of_the_demo_s_corpus():
    (prompts,) = completions.own_prompts().values()
    assert len(prompts) == 20 and prompts["input"].is_unique
    assert set(prompts["subset_name"]) == set(selection.SUBSETS)
    known = {row["input"].casefold() for row in generator.rows()}
    assert not [text for text in prompts["input"] if text.casefold() in known]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, (False, 0.6, 0.9, 50)),
        ({"temperature": 1.5}, (False, 1.5, 0.9, 50)),
        ({"top_p": 1.0, "top_k": 0}, (False, 0.6, 1.0, 0)),
        ({"top_k": 3}, (False, 0.6, 0.9, 3)),
        ({"do_sample": False, "decoding_runs": 1}, (True, 0.6, 0.9, 50)),
    ],
)
def test_completions_are_decoded_as_the_settings_say_and_else_as_the_base_model_does(
    config, clean, base_model, chosen, expected
):
    GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9).save_pretrained(base_model)
    config = replace(config, evaluation=replace(config.evaluation, **chosen))
    completions.complete(config, clean)
    used = completions.generation.read_decoding(config.paths.completions("base"))
    assert (used.greedy, used.temperature, used.top_p, used.top_k) == expected


def test_rows_may_be_completed_fewer_times_than_the_settings_say(config, rows):
    completions.complete(config, {"english": rows}, runs=1)
    table = completions.read(config, {"english": rows})
    assert table["run"].tolist() == [0] * 6
    assert set(table["protocol"]) == {"english"}


def test_a_long_prompt_leaves_room_for_its_completion(config, rows, monkeypatch):
    given = {}
    monkeypatch.setattr(
        completions.generation, "write_completions", lambda model, tokenizer, prompts, *rest, **o: given.update(prompts)
    )
    tight = replace(config, prompt=replace(config.prompt, max_evaluation_tokens=80))
    completions.complete(tight, {"clean": rows.assign(input="satu dua tiga empat " * 100)})
    assert {len(ids) for ids in given.values()} == {74}


def test_a_killed_evaluation_goes_on_and_ends_the_same(config, tests, monkeypatch):
    completions.complete(config, tests)
    paths = [config.paths.completions("base", protocol) for protocol in tests]
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    decode, asked = completions.generation.decode, []

    def killed_at(count):
        def watched(model, prompts, *rest):
            if len(asked) == count:
                raise KeyboardInterrupt
            asked.append(len(prompts))
            return decode(model, prompts, *rest)

        monkeypatch.setattr(completions.generation, "decode", watched)

    # Six rows a protocol are a batch of four and one of two; the second protocol's first batch is not reached.
    killed_at(2)
    with pytest.raises(KeyboardInterrupt):
        completions.complete(config, tests)
    assert paths[0].read_bytes() == whole[0]
    killed_at(3)
    with pytest.raises(KeyboardInterrupt):
        completions.complete(config, tests)
    killed_at(99)
    completions.complete(config, tests)
    assert [path.read_bytes() for path in paths] == whole
    # Greedily all six at once: there are half as many sequences.
    assert asked == [4, 2, 4, 2, 6]


def test_the_adapter_of_the_iteration_is_what_completes(config, clean):
    completions.complete(config, clean)
    base = completions.read(config, clean)
    tuned = replace(config, iteration="5")
    small_adapter.save(tuned, spread=1.0)
    completions.complete(tuned, clean)
    assert completions.read(tuned, clean)["ids"].tolist() != base["ids"].tolist()


def test_completions_of_an_adapter_since_trained_anew_are_made_anew(config, clean):
    tuned = replace(config, iteration="5")
    small_adapter.save(tuned, spread=1.0)
    completions.complete(tuned, clean)
    before = completions.read(tuned, clean)["ids"].tolist()
    small_adapter.save(tuned, spread=3.0)
    completions.complete(tuned, clean)
    assert completions.read(tuned, clean)["ids"].tolist() != before


def test_completions_of_a_base_model_since_changed_are_made_anew(config, clean):
    completions.complete(config, clean)
    before = completions.read(config, clean)["ids"].tolist()
    model = loading.load_base(config.model)
    with torch.no_grad():
        model.model.norm.weight.mul_(-1)
    model.save_pretrained(config.model.base_model)
    completions.complete(config, clean)
    assert completions.read(config, clean)["ids"].tolist() != before


def test_finished_completions_are_not_made_again(config, clean, monkeypatch):
    completions.complete(config, clean)

    def refuse(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(completions.generation, "decode", refuse)
    completions.complete(config, clean)
    # Unless by other code.
    monkeypatch.setattr(completions.code, "fingerprint", lambda *rooms: "other")
    with pytest.raises(AssertionError, match="decoded again"):
        completions.complete(config, clean)


@pytest.fixture
def decoded(config, tests, tokenizer):
    """Hand-made completions: run 0 repeats the references, run 1 has the right first three tokens and then others.

    In the paper's protocol run 1 repeats them too.
    """
    other = tokenizer(" xyz xyz xyz", add_special_tokens=False)["input_ids"]
    for protocol, rows in tests.items():
        records = []
        for row, reference in rows["output"].items():
            ids = tokenizer(reference, add_special_tokens=False)["input_ids"]
            for run, made in ((0, ids), (1, ids[:3] + other if protocol == "clean" else ids)):
                records.append({"row": row, "run": run, "text": tokenizer.decode(made), "ids": made})
        path = config.paths.completions("base", protocol)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(record) for record in [{"settings": {}}, *records]]
        path.write_text("\n".join(lines) + "\n")
        known = pd.DataFrame({"nats": range(1, len(rows) + 1), "bytes": 8}, index=rows.index)
        likelihood_file = config.paths.likelihood("base", protocol)
        likelihood_file.parent.mkdir(parents=True, exist_ok=True)
        known.to_parquet(likelihood_file)
    return completions.read(config, tests)


def test_scores_are_tidy_and_written_to_a_file(config, decoded, embedded):
    table = scoring.score(config, decoded)
    assert list(table.columns) == ["iteration", "seed", "protocol", "decoding_run", "metric", "value"]
    assert [tuple(key) for key in table[["protocol", "decoding_run", "metric"]].to_numpy()] == [
        (protocol, run, metric)
        for protocol in completions.PROTOCOLS
        for run in (0, 1)
        # What does not depend on decoding is there once.
        for metric in (metrics.METRICS if run == 0 and protocol != "greedy" else metrics.OF_COMPLETIONS)
    ]
    assert set(zip(table["iteration"], table["seed"], strict=True)) == {("base", 0)}
    pd.testing.assert_frame_equal(pd.read_csv(config.paths.scores("base")), table, check_dtype=False)


def by_run(table, protocol="clean"):
    return table[table["protocol"] == protocol].pivot(index="decoding_run", columns="metric", values="value")


def test_every_run_is_scored_against_the_references_of_its_own_rows(config, decoded, embedded):
    table = scoring.score(config, decoded)
    clean, paper = by_run(table), by_run(table, "paper")
    assert clean.loc[0, ["bleu", "chrf", "rouge1", "rougeL"]].tolist() == pytest.approx([100] * 4)
    assert clean.loc[1, "bleu"] < 50
    assert paper[["bleu", "chrf", "rouge1", "rougeL"]].to_numpy() == pytest.approx(100)


def test_scores_from_summed_columns_are_those_of_the_texts(config, decoded, embedded):
    table = scoring.score(config, decoded)
    # The stand-in for the embedding model finds alike what has the same first word.
    tokenizer = loading.load_tokenizer(config.model)
    for protocol in completions.PROTOCOLS:
        for run in (0, 1):
            part = decoded[(decoded["run"] == run) & (decoded["protocol"] == protocol)]
            texts, references = part["text"].tolist(), part["reference"].tolist()
            right = [
                tokenizer.decode(ids[:3]).split()[0] == reference.split()[0]
                for ids, reference in zip(part["ids"], references, strict=True)
            ]
            rouge = metrics.rouge(texts, references)
            expected = {
                "bleu": metrics.bleu(texts, references)[0],
                "chrf": metrics.chrf(texts, references)[0],
                **{name: pytest.approx(value, rel=1e-12) for name, value in rouge.items()},
                "weighted_f1": pytest.approx(2 * np.mean(right) / (1 + np.mean(right))),
            }
            assert by_run(table, protocol).loc[run, list(metrics.OF_COMPLETIONS)].to_dict() == expected


def test_what_scores_are_made_of_is_kept_a_line_a_completion(config, decoded, embedded):
    table = scoring.score(config, decoded)
    for protocol in completions.PROTOCOLS:
        pairs = scoring.read_pairs(config, protocol)
        part = decoded[decoded["protocol"] == protocol]
        for name in ("row", "run", "subset"):
            assert pairs[name].tolist() == part[name].tolist()
        each = metrics.each(part["text"].tolist(), part["reference"].tolist())
        pd.testing.assert_frame_equal(pairs[list(each)], each)
        assert pairs["correct"].dtype == bool
        for run, some in pairs.groupby("run"):
            for metric in metrics.OF_COMPLETIONS:
                assert scoring.score_pairs(some, metric) == by_run(table, protocol).loc[run, metric]
        split = splits.read(config)
        assert pairs["group"].tolist() == split["group"].loc[pairs["row"]].tolist()
        if protocol == "greedy":
            assert "nats" not in pairs
            continue
        known = pd.read_parquet(config.paths.likelihood("base", protocol))
        assert pairs["nats"].tolist() == known["nats"].loc[pairs["row"]].tolist()


def test_bits_a_byte_are_of_all_answers_together_and_there_once(config, decoded, embedded):
    table = scoring.score(config, decoded)
    found = table[table["metric"] == "loss_per_byte"]
    assert found["decoding_run"].tolist() == [0, 0]
    rows = len(decoded[(decoded["protocol"] == "clean") & (decoded["run"] == 0)])
    expected = sum(range(1, rows + 1)) / math.log(2) / (8 * rows)
    assert found.iloc[0]["value"] == pytest.approx(expected)


def test_references_are_cut_to_as_many_tokens_as_the_settings_say(config, decoded, embedded, tokenizer):
    cut = replace(config, evaluation=replace(config.evaluation, reference_tokens=2))
    scoring.score(cut, decoded)
    pairs = scoring.read_pairs(config, "clean")
    part = decoded[decoded["protocol"] == "clean"]
    references = [
        tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:2]) for text in part["reference"]
    ]
    assert set(references) != set(part["reference"])
    assert pairs["rougeL"].tolist() == metrics.rouge_each(part["text"].tolist(), references)["rougeL"].tolist()
    # Weighted F1 looks at no more of a reference than of a completion, and at no more than there is.
    assert embedded[-1][: len(references)] == references


def test_whole_references_are_possible_and_not_the_default(config, decoded, embedded):
    assert Evaluation().reference_tokens == Evaluation().max_new_tokens == 48
    scoring.score(replace(config, evaluation=replace(config.evaluation, reference_tokens=0)), decoded)
    part = decoded[decoded["protocol"] == "clean"]
    whole = metrics.rouge_each(part["text"].tolist(), part["reference"].tolist())["rougeL"]
    assert scoring.read_pairs(config, "clean")["rougeL"].tolist() == whole.tolist()
    assert embedded[-1] == decoded["reference"].tolist()


@pytest.mark.parametrize("text", ["Ibu kota Jepang.", "<|eot_id|> tetap teks"])
def test_a_text_that_is_short_enough_is_not_touched(tokenizer, text):
    assert scoring.first_tokens(tokenizer, [text, text], 100) == [text, text]


def test_weighted_f1_looks_at_the_first_tokens_only(config, decoded, embedded, tokenizer):
    scoring.score(config, decoded)
    short = [tokenizer.decode(ids[:3]) for ids in decoded["ids"]]
    assert embedded == [short, scoring.first_tokens(tokenizer, decoded["reference"].tolist(), 3)]
    assert set(short) != set(decoded["text"])


def test_weighted_f1_is_of_each_runs_own_completions(config, decoded, embedded):
    # Run 1 begins every clean completion with another word than its reference.
    wrong = (decoded["run"] == 1) & (decoded["protocol"] == "clean")
    changed = decoded.assign(ids=[[300, 301] if bad else ids for ids, bad in zip(decoded["ids"], wrong, strict=True)])
    # In whatever order the lines come.
    table = scoring.score(
        replace(config, evaluation=replace(config.evaluation, f1_tokens=30)),
        changed.sample(frac=1, random_state=0, ignore_index=True),
    )
    assert by_run(table)["weighted_f1"].to_dict() == {0: 1.0, 1: 0.0}
    assert by_run(table, "paper")["weighted_f1"].to_dict() == {0: 1.0, 1: 1.0}


def test_scoring_loads_no_model_and_reads_only_files(config, decoded, embedded, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_base", refuse)
    monkeypatch.setattr(loading, "load_adapter", refuse)
    monkeypatch.setattr(selection, "read", refuse)
    assert len(scoring.score(config, decoded)) > 24


def test_greedy_completions_are_scored_like_any_and_have_no_likelihood_of_their_own(config, decoded, embedded):
    once = decoded[(decoded["protocol"] != "greedy") | (decoded["run"] == 0)]
    table = scoring.score(config, once)
    greedy = table[table["protocol"] == "greedy"]
    assert set(greedy["decoding_run"]) == {0}
    assert greedy["metric"].tolist() == list(metrics.OF_COMPLETIONS)
    assert not {"nats", "bytes"} & set(scoring.read_pairs(config, "greedy"))
    assert {"nats", "bytes"} <= set(scoring.read_pairs(config, "clean"))
