import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from lib import corpus, evaluation, metrics, splits
from lib import model as models
from lib.config import Config, Evaluation, Lora, Model
from lib.prompts import encode_prompt


@pytest.fixture
def config(base_model, root):
    """A run of the base model on a corpus of three subsets with copies."""
    config = Config(
        run="kecil",
        iteration="base",
        model=Model(str(base_model)),
        evaluation=Evaluation(test_rows=6, decoding_runs=2, max_new_tokens=6, f1_tokens=3, batch_rows=4),
    )
    rows = [
        row
        for n in range(60)
        for row in [
            ("dolly", f"Apa itu benda {n}?", f"Benda {n} adalah nomor {n} itu."),
            ("wikihow", f"Bagaimana cara {n}?", f"Cara {n} begini caranya nomor {n}."),
            *[("identity_prompt", f"Siapa kamu {n}?", f"Saya asisten bernama nomor {n}.")] * 5,
        ]
    ]
    table = pd.DataFrame(rows, columns=["subset_name", "input", "output"])
    for name in set(corpus.COLUMNS) - set(table.columns):
        table[name] = "x"
    config.paths.rows.parent.mkdir(parents=True)
    table.to_parquet(config.paths.rows)
    config.paths.corpus_summary.write_text(json.dumps({"fingerprint": "a"}))
    return replace(config, corpus=replace(config.corpus, test_share=0.3))


@pytest.fixture
def split(config):
    return splits.prepare(config)


@pytest.fixture
def rows(config, split):
    return evaluation.test_rows(config, split)


@pytest.fixture
def embedded(monkeypatch):
    """Stand in for the embedding model: texts with the same first word are alike, others not at all."""
    asked, words = [], {}

    def embed(texts, cache):
        asked.append(list(texts))
        return np.array([np.eye(100)[words.setdefault(text.split()[0], len(words))] for text in texts])

    monkeypatch.setattr(evaluation, "embed", embed)
    return asked


def test_test_rows_are_of_test_groups_only(config, split, rows):
    assert (split.loc[rows.index, "split"] == "test").all()
    trained = split[split["split"] == "train"]
    assert not set(split.loc[rows.index, "pair"]) & set(trained["pair"])


def test_test_rows_are_distinct_though_the_corpus_repeats_them(config, split):
    everything = replace(config, evaluation=replace(config.evaluation, test_rows=10_000))
    rows = evaluation.test_rows(everything, split)
    assert not split.loc[rows.index, "pair"].duplicated().any()
    assert len(rows) == split.loc[split["split"] == "test", "pair"].nunique()
    assert not rows.duplicated().any()


def test_test_rows_are_as_many_as_asked_for_and_even_over_the_subsets(rows):
    assert rows["subset_name"].value_counts().to_dict() == {"dolly": 2, "wikihow": 2, "identity_prompt": 2}


def test_test_rows_stand_under_their_place_in_the_corpus(config, rows):
    table = pd.read_parquet(config.paths.rows)
    pd.testing.assert_frame_equal(rows, table.loc[rows.index, ["subset_name", "input", "output"]], check_names=False)


def test_the_same_rows_are_tested_for_every_model(config, split, rows):
    again = evaluation.test_rows(replace(config, iteration="5", seed=3), split)
    pd.testing.assert_frame_equal(rows, again)


def test_every_row_is_completed_in_every_run_from_the_prompt_alone(config, rows, tokenizer, monkeypatch):
    given = {}
    write = evaluation.generation.write_completions

    def watched(model, tokenizer, prompts, path, **options):
        given.update(prompts)
        return write(model, tokenizer, prompts, path, **options)

    monkeypatch.setattr(evaluation.generation, "write_completions", watched)
    evaluation.complete(config, rows)
    for row, text in rows["input"].items():
        message = [{"role": "user", "content": text}]
        assert given[row] == encode_prompt(tokenizer, message, config.prompt, 1018)[0]
    table = evaluation.read(config, rows)
    assert sorted(zip(table["row"], table["run"], strict=True)) == sorted(
        (row, run) for row in rows.index for run in (0, 1)
    )
    assert (table["ids"].map(len) <= 6).all()
    for record in table.itertuples():
        assert (record.subset, record.prompt, record.reference) == tuple(rows.loc[record.row])


def test_a_long_prompt_leaves_room_for_its_completion(config, rows, monkeypatch):
    given = {}
    monkeypatch.setattr(
        evaluation.generation, "write_completions", lambda model, tokenizer, prompts, *rest, **o: given.update(prompts)
    )
    tight = replace(config, prompt=replace(config.prompt, max_evaluation_tokens=80))
    evaluation.complete(tight, rows.assign(input="satu dua tiga empat " * 100))
    assert {len(ids) for ids in given.values()} == {74}


def write_adapter(config, weight):
    torch.manual_seed(0)
    model = models.attach_lora(models.load_base(config.model), Lora(lora_rank=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=weight)
    model.save_pretrained(config.paths.adapter(config.name))


def test_the_adapter_of_the_iteration_is_what_completes(config, rows):
    evaluation.complete(config, rows)
    base = evaluation.read(config, rows)
    tuned = replace(config, iteration="5")
    write_adapter(tuned, 1.0)
    evaluation.complete(tuned, rows)
    assert evaluation.read(tuned, rows)["ids"].tolist() != base["ids"].tolist()


def test_completions_of_an_adapter_since_trained_anew_are_made_anew(config, rows):
    tuned = replace(config, iteration="5")
    write_adapter(tuned, 1.0)
    evaluation.complete(tuned, rows)
    before = evaluation.read(tuned, rows)["ids"].tolist()
    write_adapter(tuned, 3.0)
    evaluation.complete(tuned, rows)
    assert evaluation.read(tuned, rows)["ids"].tolist() != before


def test_completions_of_a_base_model_since_changed_are_made_anew(config, rows):
    evaluation.complete(config, rows)
    before = evaluation.read(config, rows)["ids"].tolist()
    model = models.load_base(config.model)
    with torch.no_grad():
        model.model.norm.weight.mul_(-1)
    model.save_pretrained(config.model.base_model)
    evaluation.complete(config, rows)
    assert evaluation.read(config, rows)["ids"].tolist() != before


def test_finished_completions_are_not_made_again(config, rows, monkeypatch):
    evaluation.complete(config, rows)

    def refuse(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(evaluation.generation, "decode", refuse)
    evaluation.complete(config, rows)


@pytest.fixture
def completions(config, rows, tokenizer):
    """Hand-made completions: run 0 repeats the references, run 1 has the right first three tokens and then others."""
    records = []
    for row, reference in rows["output"].items():
        ids = tokenizer(reference, add_special_tokens=False)["input_ids"]
        for run, made in ((0, ids), (1, ids[:3] + tokenizer(" xyz xyz xyz", add_special_tokens=False)["input_ids"])):
            records.append({"row": row, "run": run, "text": tokenizer.decode(made), "ids": made})
    path = config.paths.completions("base")
    path.parent.mkdir(parents=True)
    lines = [json.dumps(record) for record in [{"settings": {}}, *records]]
    path.write_text("\n".join(lines) + "\n")
    return evaluation.read(config, rows)


def test_scores_are_tidy_and_written_to_a_file(config, completions, embedded):
    table = evaluation.score(config, completions)
    assert list(table.columns) == ["iteration", "seed", "protocol", "decoding_run", "metric", "value"]
    assert [tuple(key) for key in table[["decoding_run", "metric"]].to_numpy()] == [
        (run, metric) for run in (0, 1) for metric in metrics.METRICS
    ]
    assert set(zip(table["iteration"], table["seed"], table["protocol"], strict=True)) == {("base", 0, "clean")}
    pd.testing.assert_frame_equal(pd.read_csv(config.paths.scores("base")), table, check_dtype=False)


def test_every_run_is_scored_against_the_references_of_its_own_rows(config, completions, embedded):
    table = evaluation.score(config, completions).pivot(index="decoding_run", columns="metric", values="value")
    assert table.loc[0, ["bleu", "chrf", "rouge1", "rougeL"]].tolist() == pytest.approx([100] * 4)
    part = completions[completions["run"] == 1]
    texts, references = part["text"].tolist(), part["reference"].tolist()
    assert table.loc[1, "bleu"] == metrics.bleu(texts, references)[0] < 50
    assert table.loc[1, "rouge2"] == metrics.rouge(texts, references)["rouge2"]


def test_weighted_f1_looks_at_the_first_tokens_only(config, completions, embedded, tokenizer):
    evaluation.score(config, completions)
    short = [tokenizer.decode(ids[:3]) for ids in completions["ids"]]
    assert embedded == [short, completions["reference"].tolist()]
    assert set(short) != set(completions["text"])


def test_weighted_f1_is_of_each_runs_own_completions(config, completions, embedded):
    # Run 1 begins every completion with another word than its reference.
    wrong = completions["run"] == 1
    changed = completions.assign(
        ids=[[300, 301] if bad else ids for ids, bad in zip(completions["ids"], wrong, strict=True)]
    )
    # In whatever order the lines come.
    table = evaluation.score(
        replace(config, evaluation=replace(config.evaluation, f1_tokens=30)),
        changed.sample(frac=1, random_state=0, ignore_index=True),
    )
    found = table[table["metric"] == "weighted_f1"].set_index("decoding_run")["value"].to_dict()
    assert found == {0: 1.0, 1: 0.0}


def test_scoring_loads_no_model_and_reads_only_files(config, completions, embedded, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "load_base", refuse)
    monkeypatch.setattr(models, "load_adapter", refuse)
    monkeypatch.setattr(corpus, "read", refuse)
    assert len(evaluation.score(config, completions)) == 12
