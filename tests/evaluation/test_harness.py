"""The harness's tasks on a model in hand: as it scores them itself, item by item."""

import math

import lm_eval
import numpy as np
import pytest
import small_benchmarks
import torch
from datasets import Dataset
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MambaConfig, MistralConfig, Qwen2Config

from lib.evaluation import harness
from lib.evaluation.harness import HarnessError, Scorer

PAIRS = {"doc_to_text": "", "doc_to_target": 0, "doc_to_choice": "{{[correct, wrong]}}"}


def requests(tokenizer, *texts):
    """Pairs of context and continuation, as the harness hands them over."""
    cut = [(text.split("|")[0], text.split("|")[1]) for text in texts]
    return [((a, b), tokenizer(a)["input_ids"], tokenizer(b, add_special_tokens=False)["input_ids"]) for a, b in cut]


ASKED = (
    "Ibu kota Jepang adalah| Tokyo.",
    "Ibu kota Jepang adalah| Jakarta, kata saya.",
    "Ibu kota Jepang adalah| Tokyo.",
    "Ibu kota| Jepang adalah Tokyo.",
    "Sungai Kapuas adalah sungai terpanjang| di Indonesia.",
    "Kucing itu tidur di jendela sepanjang sore. Kucing itu tidur|.",
    "Selamat| pagi, dunia.",
)


def by_transformers(model, asked):
    """Nats of each continuation, a text at a time."""
    found = []
    for _, context, continuation in asked:
        ids = torch.tensor([context + continuation])[:, -model.config.max_position_embeddings - 1 :]
        with torch.no_grad():
            logits = model(input_ids=ids[:, :-1]).logits.log_softmax(-1)
        nats = logits.gather(2, ids[:, 1:, None])[0, -len(continuation) :]
        found.append(float(nats.sum()))
    return found


@pytest.mark.parametrize("together", [1, 12, 40, 256])
def test_each_text_has_its_own_log_likelihood_however_texts_are_put_together(
    tiny_model, tokenizer, monkeypatch, together
):
    monkeypatch.setattr(harness, "_TOKENS_PER_TREE", together)
    asked = requests(tokenizer, *ASKED)
    found = [nats for nats, _ in Scorer(tiny_model, tokenizer)._loglikelihood_tokens(asked)]
    assert found == pytest.approx(by_transformers(tiny_model, asked), abs=1e-4)
    assert len({round(nats, 3) for nats in found}) == len(ASKED) - 1


def test_the_likeliest_continuation_is_known_as_such(tiny_model, tokenizer):
    context = tokenizer("Ibu kota")["input_ids"]
    own = tiny_model.generate(
        input_ids=tiny_model.dummy_inputs["input_ids"].new_tensor([context]), max_new_tokens=3, do_sample=False
    )
    asked = [(("", ""), context, own[0, len(context) :].tolist()), (("", ""), context, [5, 5, 5])]
    assert [greedy for _, greedy in Scorer(tiny_model, tokenizer)._loglikelihood_tokens(asked)] == [True, False]


def test_of_too_long_a_text_the_beginning_is_left_out(tiny_model, tokenizer):
    long = f"{'Hujan turun di atas atap seng. ' * 100}| Selamat pagi."
    asked = requests(tokenizer, long, *ASKED)
    assert len(asked[0][1]) > tiny_model.config.max_position_embeddings
    found = [nats for nats, _ in Scorer(tiny_model, tokenizer)._loglikelihood_tokens(asked)]
    assert found == pytest.approx(by_transformers(tiny_model, asked), abs=1e-4)


def test_what_texts_begin_with_is_read_once_and_logits_are_made_where_a_token_is_scored(
    tiny_model, tokenizer, monkeypatch
):
    read = []
    forward = type(tiny_model).forward

    def watched(self, **options):
        made = forward(self, **options)
        read.append((options["input_ids"].shape[1], made.logits.shape[1]))
        return made

    monkeypatch.setattr(type(tiny_model), "forward", watched)
    context, one, other = range(10, 40), [7, 8, 9], [7, 5]
    Scorer(tiny_model, tokenizer)._loglikelihood_tokens([(("", ""), [*context], one), (("", ""), [*context], other)])
    # The context, and of the continuations what predicts more: 7 and 8 of one, the same 7 of the other.
    assert read == [(30 + 2, 1 + 2)]


def test_all_is_what_the_harness_says_of_a_saved_model(base_model, tiny_model, tokenizer, tmp_path):
    """As its command line does it, which calls `simple_evaluate`, on tasks in YAML."""
    for name, rows in {"pairs": small_benchmarks.pairs("morphology"), "reviews": small_benchmarks.REVIEWS}.items():
        Dataset.from_list(rows).to_json(tmp_path / f"{name}.jsonl")
    common = "dataset_path: json\ntest_split: test\n"
    common += "dataset_kwargs: {{cache_dir: {0}, data_files: {{test: {0}/{1}.jsonl}}}}\n"
    (tmp_path / "pairs.yaml").write_text(
        common.format(tmp_path, "pairs")
        + 'task: pairs\noutput_type: multiple_choice\ndoc_to_text: ""\ndoc_to_target: 0\n'
        + 'doc_to_choice: "{{[correct, wrong]}}"\nmetric_list:\n  - metric: acc\n'
    )
    (tmp_path / "reviews.yaml").write_text(
        common.format(tmp_path, "reviews")
        + 'task: reviews\noutput_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{english}}"\n'
        + "metric_list:\n  - metric: bits_per_byte\n"
    )
    expected = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={base_model},dtype=float32",
        device="cpu",
        tasks=["pairs", "reviews"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    found = harness.score(
        tiny_model,
        tokenizer,
        {
            "pairs": harness.own("pairs", small_benchmarks.pairs("morphology"), "multiple_choice", **PAIRS),
            "reviews": harness.own(
                "reviews", small_benchmarks.REVIEWS, "loglikelihood_rolling", doc_to_text="", doc_to_target="english"
            ),
        },
    )
    pairs, reviews = (found[found["task"] == name] for name in ("pairs", "reviews"))
    for mine, line in zip(pairs.to_dict("records"), expected["samples"]["pairs"], strict=True):
        assert mine["loglikelihoods"] == pytest.approx([nats for nats, _ in line["filtered_resps"]], abs=1e-4)
        assert mine["correct"] == line["acc"] and mine["item"] == line["doc_id"]
    assert 0 < pairs["correct"].mean() == expected["results"]["pairs"]["acc,none"]
    assert pairs["chance"].tolist() == [0.5] * len(pairs)
    for mine, line in zip(reviews.to_dict("records"), expected["samples"]["reviews"], strict=True):
        assert (-mine["nats"], mine["bytes"]) == pytest.approx(line["bits_per_byte"], abs=1e-4)
    bits = reviews["nats"].sum() / reviews["bytes"].sum() / math.log(2)
    assert bits == pytest.approx(expected["results"]["reviews"]["bits_per_byte,none"], rel=1e-6)
    assert np.isnan(reviews["correct"]).all() and np.isnan(pairs["nats"]).all()


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        (LlamaConfig(), True),
        (Qwen2Config(), True),
        (MistralConfig(sliding_window=None), True),
        (MistralConfig(), False),
        (MambaConfig(hidden_size=8), False),
        (Gemma3TextConfig(), False),
    ],
    ids=lambda given: type(given).__name__ if not isinstance(given, bool) else str(given),
)
def test_texts_share_a_beginning_only_where_every_token_sees_all_before_it(shape, seen):
    with torch.device("meta"):
        shape.num_hidden_layers, shape.vocab_size = 2, 8
        if isinstance(shape, Gemma3TextConfig):
            shape.layer_types = ["sliding_attention", "full_attention"]
        elif isinstance(shape, Qwen2Config):
            shape.layer_types = ["full_attention"] * 2
        shape.pad_token_id = 0
        model = AutoModelForCausalLM.from_config(shape)
    assert harness.sees_all(model) is seen


def test_a_model_with_a_window_of_attention_is_scored_as_the_harness_does(tokenizer):
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape = MistralConfig(vocab_size=len(tokenizer), num_key_value_heads=2, sliding_window=3, pad_token_id=0, **size)
    model = AutoModelForCausalLM.from_config(shape).eval()
    # The harness takes texts with the same tokens for one, wherever each is parted.
    asked = requests(tokenizer, *(text for text in ASKED if not text.startswith("Ibu kota|")))
    found = [nats for nats, _ in Scorer(model, tokenizer)._loglikelihood_tokens(asked, disable_tqdm=True)]
    np.testing.assert_allclose(found, by_transformers(model, asked), atol=1e-4)


def test_an_item_has_its_texts_and_no_labels(tiny_model, tokenizer):
    rows = [{"correct": "satu dua tiga empat", "wrong": "empat tiga dua satu", "kind": "label", "more": ["a b c d"]}]
    found = harness.score(tiny_model, tokenizer, {"x": harness.own("x", rows, "multiple_choice", **PAIRS)})
    assert found["texts"][0] == ["satu dua tiga empat", "empat tiga dua satu", "a b c d"]


# --- Tasks whose files are on the hub -------------------------------------------------------------------------------


class Manager:
    """Of the harness's manager, what is used here."""

    def __init__(self, *, tasks=(), error=None):
        self.all_tasks = ["belebele_ind_Latn", "global_mmlu_id"]
        self._tasks, self._error = tasks, error

    def load(self, names):
        if self._error:
            raise self._error
        return {"tasks": dict(self._tasks)}


def test_without_a_network_a_task_of_the_hub_is_one_sentence(monkeypatch):
    error = ConnectionError("Couldn't reach 'facebook/belebele' on the Hub (LocalEntryNotFoundError)\nmore")
    monkeypatch.setattr(harness, "_manager", lambda: Manager(error=error))
    with pytest.raises(HarnessError, match=r"'belebele_ind_Latn' cannot be had from the hub \(Couldn't reach .*\)."):
        harness.from_hub("belebele_ind_Latn")


def test_a_full_disk_of_the_hubs_cache_is_named_and_not_the_network(monkeypatch):
    monkeypatch.setattr(harness, "_manager", lambda: Manager(error=OSError(28, "No space left on device")))
    with pytest.raises(HarnessError, match=r"the disk of .* is full, or your share of it") as told:
        harness.from_hub("belebele_ind_Latn")
    assert "network" not in str(told.value)


def test_a_task_that_asks_for_no_choice_is_refused(monkeypatch):
    writes = harness.own(
        "writes", small_benchmarks.REVIEWS, "loglikelihood_rolling", doc_to_text="", doc_to_target="english"
    )
    monkeypatch.setattr(harness, "_manager", lambda: Manager(tasks={"writes": writes}))
    with pytest.raises(HarnessError, match=r"'writes' is of the kind loglikelihood_rolling, and only the accuracy of"):
        harness.from_hub("writes")


def test_the_harness_is_not_made_louder_or_quieter_for_others(tiny_model, tokenizer):
    logger = harness.logging.getLogger("lm_eval")
    before = logger.level
    harness.own("x", small_benchmarks.pairs("a"), "multiple_choice", **PAIRS)
    assert logger.level == before
