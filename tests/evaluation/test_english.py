import json
import math
import random
from dataclasses import replace

import pandas as pd
import pytest
import small_adapter

from lib.config import Config, English, Evaluation, Model, Prompt
from lib.corpus import selection, splits
from lib.corpus.files import CorpusError
from lib.demo import generator
from lib.demo.pairs import Pair
from lib.evaluation import completions, english, language, likelihood, metrics
from lib.model import generation, loading
from lib.model.prompts import encode_prompt

KEYS = range(120)
_RANDOM = random.Random(0)
#: Four words for each key, so unlike each other that no two texts are near-duplicates.
UNLIKE = [" ".join("".join(_RANDOM.choices("aiueokstnbm", k=6)) for _ in range(4)) for _ in range(2 * len(KEYS))]


def dolly(lang):
    """Items in two wordings."""
    if lang == "id":
        return [
            Pair(f"{ask} benda ke-{n}{end}", f"Benda {UNLIKE[n]} itu.", str(n), ask)
            for n in KEYS
            for ask, end in (("Apa itu", "?"), ("Jelaskan", "."))
        ]
    return [
        Pair(f"{ask} thing {n}{end}", f"Thing {n} is that number {n} there.", str(n), key)
        for n in KEYS
        for ask, end, key in (("What is", "?", "Apa itu"), ("Explain", ".", "Jelaskan"))
    ]


def identity(lang):
    """Indonesian items of which every two are one in English."""
    if lang == "id":
        return [Pair(f"Siapa kamu {n}?", f"Saya {UNLIKE[len(KEYS) + n]} saja.", str(n), "a") for n in KEYS]
    return [Pair(f"Who are you {n // 2}?", f"I am an assistant of number {n // 2}.", str(n), "a") for n in KEYS]


@pytest.fixture(autouse=True)
def small_demo(monkeypatch):
    # Listed backwards in English, so that twins are found by what they speak of and not by their place.
    monkeypatch.setattr(
        generator,
        "subsets",
        lambda lang: {
            "dolly": dolly(lang)[:: 1 if lang == "id" else -1],
            "identity_prompt": identity(lang)[:: 1 if lang == "id" else -1],
        },
    )


def write_rows(config, rows):
    """Put rows where the sampling stage puts those of a run's corpus."""
    table = pd.DataFrame(rows, columns=["subset_name", "input", "output"])
    for name in set(selection.COLUMNS) - set(table.columns):
        table[name] = "x"
    config.paths.rows.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(config.paths.rows)
    config.paths.corpus_summary.write_text(json.dumps({"fingerprint": str(len(table))}))
    return splits.prepare(config)


@pytest.fixture
def config(base_model):
    """A run of the base model on the small demo."""
    config = Config(
        run="kecil",
        iteration="base",
        model=Model(str(base_model)),
        evaluation=Evaluation(decoding_runs=1, max_new_tokens=6, f1_tokens=3, batch_rows=4),
        english=English("demo", rows=8),
    )
    return replace(config, corpus=replace(config.corpus, source="demo", test_share=0.4))


@pytest.fixture
def split(config):
    pairs = [(subset, p.prompt, p.completion) for subset, some in generator.subsets("id").items() for p in some]
    return write_rows(config, pairs)


@pytest.fixture
def rows(config, split):
    return english.held_out(config)


@pytest.fixture
def decoded():
    """Two decoding runs on the Indonesian test rows: one Indonesian, one half English and half empty."""
    references = ["Kereta berangkat pukul tujuh pagi dari kota.", "Saya tidak dapat membantu Anda membuatnya."]
    answers = [*references, "The train leaves at seven in the morning.", ""]
    table = pd.DataFrame({"row": [3, 7] * 2, "run": [0, 0, 1, 1], "text": answers})
    return table.assign(reference=references * 2, protocol="clean")


def everything(config):
    return replace(config, english=replace(config.english, rows=10_000))


# --- The rows --------------------------------------------------------------------------------------------------------


def sides(split):
    """Subset, key and wording of each Indonesian pair, with its side."""
    pairs = [(s, p.key, p.wording) for s, some in generator.subsets("id").items() for p in some]
    return dict(zip(pairs, split["split"], strict=True))


def test_the_rows_are_the_twins_of_test_rows_and_never_of_a_training_or_validation_row(config, split):
    rows = english.held_out(everything(config))
    side = sides(split)
    texts = {name: set() for name in splits.SPLITS}
    for subset, pairs in generator.subsets("en").items():
        for pair in pairs:
            texts[side[subset, pair.key, pair.wording]].add((pair.prompt, pair.completion))
    # Some are a twin of both sides, or this would prove little.
    assert texts["test"] & texts["train"]
    assert set(zip(rows["input"], rows["output"], strict=True)) == texts["test"] - texts["train"] - texts["validation"]


def test_rows_whose_pair_the_runs_corpus_does_not_hold_are_all_unseen(config):
    write_rows(config, [("dolly", f"Pertanyaan {n}?", f"Jawaban {UNLIKE[n]} saja.") for n in range(80)])
    found = english.held_out(everything(config))
    assert len(found) == len({(p.prompt, p.completion) for some in generator.subsets("en").values() for p in some})


def test_a_pair_is_known_however_its_words_are_written(config):
    config = replace(config, corpus=replace(config.corpus, test_share=0.0, validation_share=0.0))
    first = dolly("id")[0]
    split = write_rows(config, [("dolly", f"  {first.prompt.upper()} ", f"{first.completion}\n")] * 20)
    assert set(split["split"]) == {"train"}
    twin = next(pair for pair in dolly("en") if (pair.key, pair.wording) == (first.key, first.wording))
    assert twin.prompt not in set(english.held_out(everything(config))["input"])


def test_the_rows_are_distinct_and_even_over_the_subsets(rows):
    assert not rows[["input", "output"]].duplicated().any()
    assert rows["subset_name"].value_counts().to_dict() == {"dolly": 4, "identity_prompt": 4}
    assert rows.index.is_unique


def test_the_same_rows_serve_every_model(config, rows):
    pd.testing.assert_frame_equal(english.held_out(replace(config, iteration="5", seed=3)), rows)


def write_corpus(path, pairs, subset="dolly"):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        dict.fromkeys(selection.COLUMNS, "x") | {"subset_name": subset, "input": prompt, "output": output}
        for prompt, output in pairs
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_the_rows_may_come_from_a_file_named_relative_to_the_repository(config, root):
    pairs = [(f"Question {n}?", f"Answer {n}.") for n in range(6)]
    write_corpus(root / "mine" / "english.jsonl", [*pairs, pairs[0]])
    named = replace(config, english=English("mine/english.jsonl", rows=100))
    found = english.held_out(named)
    assert list(found.columns) == ["subset_name", "input", "output", "group"]
    assert sorted(zip(found["input"], found["output"], strict=True)) == pairs


def test_a_source_that_cannot_be_read_is_named_with_its_setting(config, root):
    with pytest.raises(CorpusError, match=r"english.source = 'nothing.jsonl' cannot be used.*no file or folder"):
        english.held_out(replace(config, english=English("nothing.jsonl")))
    write_corpus(root / "other.jsonl", [("a", "b")], subset="chitchat")
    with pytest.raises(CorpusError, match=r"english.source = 'other.jsonl' cannot be used.*chitchat"):
        english.held_out(replace(config, english=English("other.jsonl")))


def test_a_split_without_a_test_side_leaves_no_row_and_says_so(config):
    untested = replace(config, corpus=replace(config.corpus, test_share=0.0))
    pairs = [(subset, p.prompt, p.completion) for subset, some in generator.subsets("id").items() for p in some]
    write_rows(untested, pairs)
    with pytest.raises(CorpusError, match=r"english.source = 'demo' leaves no row"):
        english.held_out(untested)


# --- The measure -----------------------------------------------------------------------------------------------------


def values(table, protocol):
    part = table[table["protocol"] == protocol]
    return dict(zip(zip(part["metric"], part["decoding_run"], strict=True), part["value"], strict=True))


def test_a_model_is_measured_in_english_and_in_its_indonesian_completions(config, rows, decoded, tiny_model):
    table = english.measure(config, decoded)
    assert list(table.columns) == ["iteration", "seed", "protocol", "decoding_run", "metric", "value"]
    assert values(table, "clean") == {
        ("indonesian_share", 0): 1.0, ("indonesian_share", 1): 0.0, ("reference_indonesian_share", 0): 1.0,
    }  # fmt: skip
    found = values(table, "english")
    assert set(found) == {
        (name, 0) for name in ("loss_per_byte_en", "rougeL", "english_share", "reference_english_share")
    }
    tokenizer = loading.load_tokenizer(config.model)
    known = likelihood.answers(tiny_model, tokenizer, rows, config.prompt)
    bits = known["nats"].sum() / math.log(2) / known["bytes"].sum()
    assert found["loss_per_byte_en", 0] == pytest.approx(bits, rel=1e-4)
    written = completions.read(config, {"english": rows})
    assert sorted(written["row"]) == sorted(rows.index)
    assert found["rougeL", 0] == metrics.rouge(written["text"].tolist(), written["reference"].tolist())["rougeL"]
    assert found["english_share", 0] == language.english_share(written["text"].tolist())
    assert found["reference_english_share", 0] == language.english_share(rows["output"].tolist())


def test_what_was_measured_is_written_to_a_file(config, split, decoded):
    table = english.measure(config, decoded)
    written = pd.read_csv(config.paths.language("base"))
    pd.testing.assert_frame_equal(written, table, check_dtype=False)


def test_english_answers_stand_beside_the_references_of_their_own_rows(config, rows, decoded, monkeypatch):
    def repeat(model, tokenizer, prompts, path, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        said = {row: tokenizer(rows.loc[row, "output"], add_special_tokens=False)["input_ids"] for row in prompts}
        lines = [{"row": row, "run": 0, "text": "", "ids": said[row]} for row in reversed(prompts)]
        path.write_text("\n".join(map(json.dumps, [{}, *lines])) + "\n")

    monkeypatch.setattr(generation, "write_completions", repeat)
    assert values(english.measure(config, decoded), "english")["rougeL", 0] == pytest.approx(100)


def test_the_language_of_the_paper_protocol_s_completions_plays_no_part(config, decoded):
    unasked = replace(config, english=English())
    before = english.measure(unasked, decoded)
    other = decoded.assign(protocol="paper", text="The train leaves at seven in the morning.")
    pd.testing.assert_frame_equal(english.measure(unasked, pd.concat([decoded, other])), before)


def test_english_is_completed_once_from_the_prompts_as_in_evaluation(config, rows, decoded, tokenizer, monkeypatch):
    given = {}
    write = generation.write_completions

    def watched(model, tokenizer, prompts, path, **options):
        given.update(prompts=prompts, path=path, **options)
        write(model, tokenizer, prompts, path, **options)

    monkeypatch.setattr(generation, "write_completions", watched)
    english.measure(config, decoded)
    assert given["runs"] == 1
    assert given["path"] == config.paths.completions("base", "english")
    room = config.prompt.max_evaluation_tokens - 6
    assert given["prompts"] == {
        row: encode_prompt(tokenizer, [{"role": "user", "content": text}], config.prompt, room)[0]
        for row, text in rows["input"].items()
    }
    assert given["decoding"].max_new_tokens == 6


def test_an_adapter_is_measured_beside_the_base_and_again_when_it_is_trained_anew(config, rows, decoded):
    def loss(of):
        return values(english.measure(of, decoded), "english")["loss_per_byte_en", 0]

    tuned = replace(config, iteration="5")
    base = loss(config)
    small_adapter.save(tuned, spread=0.0)
    assert loss(tuned) == pytest.approx(base, rel=1e-5)
    small_adapter.save(tuned, spread=1.0)
    assert abs(loss(tuned) - base) > 0.1
    assert loss(config) == base


def test_other_rows_or_other_prompts_are_measured_anew(config, split, decoded, monkeypatch):
    # Apart from the fingerprint, which tells of a new chat template too.
    monkeypatch.setattr(loading, "base_fingerprint", lambda settings: "")

    def loss(of):
        return values(english.measure(of, decoded), "english")["loss_per_byte_en", 0]

    first = loss(config)
    assert loss(replace(config, english=English("demo", rows=3))) != first
    assert loss(replace(config, prompt=Prompt(bos_tokens=2))) != first
    assert loss(replace(config, prompt=Prompt(max_evaluation_tokens=60))) != first
    assert loss(config) == first
    tokenizer = loading.load_tokenizer(config.model)
    tokenizer.chat_template = tokenizer.chat_template.replace("Cutting Knowledge", "Knowledge")
    tokenizer.save_pretrained(config.model.base_model)
    assert loss(config) != first


def test_what_is_finished_is_not_done_again(config, split, decoded, monkeypatch):
    first = english.measure(config, decoded)

    def refuse(*args):
        raise AssertionError("done again")

    monkeypatch.setattr(likelihood, "answers", refuse)
    monkeypatch.setattr(generation, "decode", refuse)
    pd.testing.assert_frame_equal(english.measure(config, decoded), first)


def test_an_interrupted_measurement_goes_on_and_ends_the_same(config, split, decoded, monkeypatch):
    english.measure(config, decoded)
    path, table = config.paths.completions("base", "english"), config.paths.language("base")
    whole = path.read_bytes(), table.read_bytes()
    path.unlink()
    table.unlink()
    decode, done = generation.decode, []

    def fail_at_the_second(*args):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return decode(*args)

    monkeypatch.setattr(generation, "decode", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        english.measure(config, decoded)
    assert 0 < len(path.read_bytes()) < len(whole[0])
    assert not table.exists()
    asked = []

    def watched(model, prompts, *rest):
        asked.append(len(prompts))
        return decode(model, prompts, *rest)

    monkeypatch.setattr(generation, "decode", watched)
    english.measure(config, decoded)
    assert (path.read_bytes(), table.read_bytes()) == whole
    assert asked == [4]


def test_without_a_source_english_is_not_measured_and_no_model_is_loaded(config, decoded, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_base", refuse)
    unasked = replace(config, english=English())
    assert english.held_out(unasked).empty
    assert list(english.held_out(unasked).columns) == ["subset_name", "input", "output", "group"]
    table = english.measure(unasked, decoded)
    assert set(table["protocol"]) == {"clean"}
    assert values(table, "clean")["indonesian_share", 0] == 1
    assert not config.paths.likelihood("base", "english").exists()


def test_what_was_measured_before_is_gone_when_english_is_no_longer_asked_for(config, split, decoded):
    english.measure(config, decoded)
    english.measure(replace(config, english=English()), decoded)
    assert set(pd.read_csv(config.paths.language("base"))["protocol"]) == {"clean"}


def test_the_real_demo_has_a_twin_for_every_pair(monkeypatch):
    monkeypatch.undo()
    indonesian, twins = generator.subsets("id"), generator.subsets("en")
    for subset, pairs in indonesian.items():
        keys = [(pair.key, pair.wording) for pair in pairs]
        assert sorted(keys) == sorted((pair.key, pair.wording) for pair in twins[subset])
        assert len(keys) == len(set(keys))
