"""The cards: true to the files of the run, valid on the hub, and silent about texts and machines."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import small_run
from huggingface_hub import DatasetCard, ModelCard

from lib.config import Corpus
from lib.corpus import splits
from lib.evaluation import statistics
from lib.release import cards, finished
from lib.report import ablation
from lib.storage import write_json

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LLAMA = f"unsloth/Llama-3.2-1B-Instruct-bnb-4bit@{COMMIT}"


@pytest.fixture
def run():
    small_run.finish(small_run.make(iterations="0 5"))
    return finished.read("trial")


def told(run, base=None, corpus=None, commit=None):
    """The same run with another base model, or another corpus, in its manifest."""
    manifest = dict(run.manifest)
    if base:
        manifest["base_model"] = manifest["base_model"] | {"source": base}
    if corpus:
        manifest["corpus"] = manifest["corpus"] | {"source": corpus, "commit": commit}
    return replace(run, manifest=manifest)


def test_the_model_card_has_the_scores_of_base_and_final_adapter_with_their_intervals(run):
    card = cards.model_card(run)
    files = run.config.paths
    ends = {}
    for name in ("base", run.config.name):
        known = statistics.intervals(pd.read_parquet(files.pairs(name)), ["bleu"]).iloc[0]
        assert known["low"] < known["high"]
        ends[name] = f"[{known['low']:.1f}, {known['high']:.1f}]"
    assert f"| BLEU | 11.0 {ends['base']} | 41.0 {ends[run.config.name]} | 20.0 (nearest) | 100.0 |" in card
    assert "*nearest* is the answer of the nearest training prompt (TF-IDF)" in card
    assert re.search(r"^\| bits a byte \| .* \| – \| – \|$", card, re.MULTILINE)
    assert "over groups of test rows" in card and "Student" not in card
    # Which answers are right is the same in every group.
    assert "| Weighted F1 | 0.110 [0.000, 0.000] | 0.410 [1.000, 1.000] | 0.200 (nearest) | 1.000 |" in card
    assert "Mean over 3 decoding runs with its 95 % interval" in card
    assert "on 24 test rows" in card
    assert "sampled with\ntemperature 0.6, top-k 50 and top-p 0.9, up to 48 tokens" in card
    assert "row 5 of the study's Table 2, seed 0" in card


def test_in_public_a_manifest_names_what_is_on_this_machine_by_the_last_part_of_its_path(root):
    (root / "data").mkdir()
    (root / "data/rows").touch()
    names = {
        "/home/me/rows.jsonl": "rows.jsonl",
        "~/model": "model",
        "../corpora/*.jsonl": "*.jsonl",
        "artifacts/base_models/tiny-0123456789ab": "tiny-0123456789ab",
        "data/rows": "rows",
        "someone/rows": "someone/rows",
        LLAMA: LLAMA,
        "demo": "demo",
        "": "",
    }
    for name, shown in names.items():
        told = {"corpus": {"source": name, "rows_read": 3, "sources": [{"name": "a"}]}, "model": {"base_model": name}}
        expected = {"corpus": told["corpus"] | {"source": shown}, "model": {"base_model": shown}}
        assert cards.public(told) == expected, name


def test_in_public_a_command_names_what_is_on_this_machine_by_the_last_part_of_its_path(root):
    asked = "make report PROFILE=paper 'CORPUS=/home/me/my rows/*.jsonl' BASE_MODEL=~/x/model 'ITERATIONS=5 8'"
    shown = "make report PROFILE=paper 'CORPUS=*.jsonl' BASE_MODEL=model 'ITERATIONS=5 8'"
    assert cards.public_command(asked) == shown
    of_the_hub = "make report CORPUS=someone/rows BASE_MODEL=demo"
    assert cards.public_command(of_the_hub) == of_the_hub


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read /home/me/rows.jsonl: gone", "cannot read rows.jsonl: gone"),
        ("'/home/me/my rows/a.jsonl' has 3 rows (~/b/c)", "'a.jsonl' has 3 rows (c)"),
        ('CORPUS=../me/rows.csv, or "/mnt/x"', 'CORPUS=rows.csv, or "x"'),
        ("and/or 3/4 of </b></script> <br/>", "and/or 3/4 of </b></script> <br/>"),
        ("ask https://huggingface.co/a/b, /v1", "ask https://huggingface.co/a/b, /v1"),
        ("read reports/mine/3.partial.ipynb", "read reports/mine/3.partial.ipynb"),
    ],
)
def test_in_public_a_sentence_names_no_folder_of_this_machine(text, shown):
    assert cards.public_text(text) == shown


def test_in_public_a_sentence_names_files_of_the_project_from_its_folder(root):
    assert cards.public_text(f"Remove {root}/artifacts/mine/trainings/5_seed0, which") == (
        "Remove artifacts/mine/trainings/5_seed0, which"
    )


def test_the_model_card_s_metadata_are_the_hub_s(run):
    data = ModelCard(cards.model_card(run)).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "peft", "text-generation")
    assert data.language == ["id", "en"]
    # The hub has neither the demo's model nor its corpus: a name of none would be somebody else's.
    assert data.base_model is None and data.datasets is None
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert values["BLEU (the best answer without a model: 20)"] == pytest.approx(41.0)
    assert values["Weighted F1 (the best answer without a model: 0.2)"] == pytest.approx(0.41)
    assert "bits a byte" in values
    assert "f1" not in {result.metric_type for result in data.eval_results}
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_the_demo_s_model_is_no_llama_of_meta_s(run):
    card = cards.model_card(run)
    assert "Built with Llama" not in card and "Community License" not in card
    assert cards.name(run) == "klepon-trial"
    assert "**This is the demo's model.** Its base model and its corpus are tiny stand-ins that Klepon makes" in card
    assert "Base model, corpus and adapter are under the [Apache License 2.0]" in card


def test_a_corpus_of_somebody_s_own_is_no_stand_in_and_has_its_own_licence_beside_the_demo_s_base_model(run):
    card = cards.model_card(told(run, corpus="/home/me/rows.jsonl"))
    assert "**This is the demo's model.** Its base model is a tiny stand-in that Klepon makes itself" in card
    assert "\nBase model and adapter are under the [Apache License 2.0]" in card
    assert "The licence of the corpus: that of the corpus's authors." in card


def test_a_llama_s_card_does_what_its_licence_asks(run):
    run = told(run, LLAMA, "indonlp/cendol_collection_v2", COMMIT)
    card = cards.model_card(run)
    data = ModelCard(card).data
    assert data.license == "llama3.2"
    assert data.base_model == "unsloth/Llama-3.2-1B-Instruct-bnb-4bit"
    assert data.datasets == ["indonlp/cendol_collection_v2"]
    assert {result.dataset_revision for result in data.eval_results} == {COMMIT}
    title = re.search(r"^# (.*)$", card, re.MULTILINE)[1]
    assert title == data.model_name == "Llama-3.2-1B-Instruct-klepon-trial"
    assert "**Built with Llama.**" in card
    assert "> Llama 3.2 is licensed under the Llama 3.2 Community License" in card
    assert f'revision="{COMMIT}"' in card and card.count(COMMIT) >= 3
    assert "Apache License 2.0, as its page on the hub says" in card
    assert "This is the demo's model" not in card


def test_a_llama_under_another_name_is_named_llama(run):
    assert cards.name(told(run, f"someone/tuned-llama-3.2@{COMMIT}")) == "Llama-tuned-llama-3.2-klepon-trial"


def test_a_model_from_a_gguf_file_is_named_by_the_file_and_its_hash(run):
    base = {"source": "Tiny-1B.Q4.gguf", "sha256": "f" * 64, "gguf": "Tiny-1B.Q4.gguf", "gguf_sha256": "0a" * 32}
    run = replace(run, manifest=run.manifest | {"base_model": base})
    card = cards.model_card(run)
    assert cards.name(run) == "Tiny-1B.Q4-klepon-trial"
    assert (
        f"| base model | `Tiny-1B.Q4`, SHA-256 `{'f' * 64}`; unpacked from `Tiny-1B.Q4.gguf`, SHA-256 `{'0a' * 32}` |"
        in card
    )
    assert 'from_pretrained("artifacts/base_models/Tiny-1B.Q4-0a0a0a0a0a0a")' in card
    assert cards.public_name(base["source"]) == "Tiny-1B.Q4.gguf"
    packed = replace(
        run, manifest=run.manifest | {"base_model": base | {"source": "tiny", "package": "tiny-model 1.0"}}
    )
    assert "unpacked from `Tiny-1B.Q4.gguf` of the package tiny-model 1.0, SHA-256" in cards.model_card(packed)
    assert cards.name(packed) == "tiny-klepon-trial"


def test_the_training_settings_are_in_the_card(run):
    lora = replace(run.config.lora, lora_rank=17, loraplus_lr_ratio=3.5, use_rslora=False)
    training = replace(run.config.training, learning_rate=1.5e-3, epochs=2.5)
    card = cards.model_card(replace(run, config=replace(run.config, lora=lora, training=training)))
    assert "rank 17, alpha 16," in card and "rank-stabilised" not in card
    assert "B learns 3.5 times faster than A" in card
    assert "0.0015, cosine" in card and "| 2.5, 8 examples a step |" in card
    assert run.manifest["git_commit"] in card and run.manifest["base_model"]["sha256"] in card


def test_the_figures_of_a_merge_are_in_the_card_until_it_is_another_s(run):
    assert "nats" not in cards.model_card(run)
    files = run.config.paths
    files.merged.mkdir()
    (files.merged / "config.json").write_text("{}")
    from lib.model import loading

    record = {"adapter": run.adapter, "merged": loading.fingerprint(files.merged), "tokens": 512, "prompts": 32}
    record |= {"log_prob_difference": 0.0123, "equal_greedy": 0.987, "most_difference": 0.05, "least_equal": 0.95}
    write_json(files.merge_record, record)
    card = cards.model_card(run, merged=True)
    assert "512 tokens of 32 reference answers" in card and "0.0123 nats" in card and "98.7 %" in card
    assert ModelCard(card).data.library_name == "transformers"
    assert "PeftModel" not in card
    (files.merged / "config.json").write_text("{ }")
    assert "nats" not in cards.model_card(run)


def test_the_cards_are_written_beside_the_adapter(run):
    cards.write(run)
    folder = run.config.paths.final_adapter
    assert (folder / "README.md").read_text() == cards.model_card(run)
    assert (folder / "DATA_CARD.md").read_text() == cards.data_card(run)


def test_the_data_card_counts_what_was_drawn(run):
    card = cards.data_card(run)
    sample = pd.read_parquet(run.config.paths.sample(run.config.sampled_as))
    for subset, part in sample.groupby("subset"):
        counts = part["part"].value_counts()
        assert f"| {subset} | {counts['train']} | {counts['validation']} | {len(part)} |" in card
    # Twelve training rows in two clusters.
    assert "put into 2 clusters" in card
    assert "| 0 | 2 | 2 | 2 | 6 |" in card and "| all | 4 | 4 | 4 | 12 |" in card
    assert "| of these as JSON lines (gzip): Cendol's columns | 1,234 |" in card
    assert "| rows read | 1,234 |" in card and "| kept, in 2 subsets | 1,200 |" in card
    data = DatasetCard(card).data
    assert (data.license, data.size_categories, data.language) == ("apache-2.0", "n<1K", ["id"])


def test_the_data_card_has_the_leaks_that_were_measured(run):
    card = cards.data_card(run)
    leaks = splits.leakage(splits.read(run.config), run.config.corpus.test_share).loc["all"]
    assert f"are in its training set too | {100 * leaks['random split: rows leaked']:.1f} % |" in card
    ours = ablation.leaked_share(run.config).loc["clean"]
    assert f"| scored test rows that are in the training sample | {100 * ours['row']:.1f} % |" in card
    # Of the paper's rows half are copies: had those been asked, it would say so.
    assert ours["row"] == 0


def test_the_split_rule_is_the_run_s(run):
    settings = Corpus(near_duplicate_similarity=0.75, generic_after=13, test_share=0.2, split_seed=9)
    card = cards.data_card(replace(run, config=replace(run.config, corpus=settings)))
    assert "at least 75 % of the three-word" in card and "more than 13 outputs" in card
    assert "20 % test" in card and "(split seed 9)" in card


def test_the_cards_of_a_run_on_public_sources_name_them_with_their_licences_and_whom_to_credit(run):
    run = told(run, corpus="open")
    small_run.name_sources(run.config)
    card = cards.data_card(run)
    for name, subset, licence, where in (
        ("answers", "identity_prompt", "MIT", "texts"),
        ("poems", "indo_puisi", "CC-BY-4.0", "others"),
    ):
        link = f"https://example.org/someone/{where} `abababababab`"
        assert f"| {name} | {subset} | 1,024 | {link} | {licence} | LICENSE | Penguji |" in card
    assert (DatasetCard(card).data.license, DatasetCard(card).data.license_name) == ("other", "mixed")
    assert "whose own terms may differ" not in card
    assert "The licences of the corpus: mixed, by source: Apache-2.0, CC-BY-4.0" in cards.model_card(run)


def test_no_text_of_the_corpus_is_in_a_card(run):
    rows = pd.read_parquet(run.config.paths.rows)
    for card in (cards.model_card(run), cards.data_card(run)):
        assert not [text for text in (*rows["input"], *rows["output"]) if text in card]
        assert "Soal" not in card and "Jawaban" not in card and "script" not in card


def test_no_folder_of_somebody_s_machine_is_in_a_card(run):
    run = told(run, "/home/somebody/models/mine", "/home/somebody/corpora/rows.jsonl")
    for card in (cards.model_card(run), cards.data_card(run)):
        assert "somebody" not in card
    assert "`mine`" in cards.model_card(run) and "`rows.jsonl`" in cards.data_card(run)
    assert ModelCard(cards.model_card(run)).data.license == "other"
    assert DatasetCard(cards.data_card(run)).data.license == "unknown"


def test_the_variant_of_a_study_is_no_row_of_the_table():
    small_run.finish(small_run.make(studies="bos"))
    card = cards.model_card(finished.read("trial"))
    assert "the variant bos_two" in card and "Table 2" not in card
    assert "2 beginning-of-text tokens" in card
