"""What is saved says the same to readers of both times; `make readers` asks one of the earlier."""

import json

import pytest
import small_adapter
import small_training
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from lib.model import loading, saving
from lib.release import merging
from lib.training import trainer

LLAMA32 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
}
TEXT = "Apa ibu kota <|eot_id|> Jepang? é 日"


@pytest.fixture
def tiny_config(tiny_config):
    """As of conftest, with the RoPE of Llama 3.2, whose scaling shows within 64 tokens."""
    return LlamaConfig(**tiny_config.to_dict() | {"rope_parameters": {"rope_theta": 500_000.0, **LLAMA32}})


def read(path):
    return json.loads(path.read_text())


def test_a_merged_model_says_its_rope_where_both_look_and_is_the_same_here(base_model):
    run = small_adapter.run(str(base_model))
    merging.merge(run)
    folder = run.config.paths.merged
    told = read(folder / "config.json")
    assert (told["rope_theta"], told["rope_scaling"]) == (500_000.0, LLAMA32)
    assert told["rope_parameters"] == {"rope_theta": 500_000.0, **LLAMA32}
    assert AutoConfig.from_pretrained(folder).rope_parameters == told["rope_parameters"]
    assert read(folder / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_model_is_the_same_with_what_was_added(base_model, tmp_path):
    ids = torch.arange(5, 105).unsqueeze(0)
    before = AutoModelForCausalLM.from_pretrained(base_model)(input_ids=ids).logits
    told = read(base_model / "config.json")
    saving.for_all_readers(base_model)
    assert read(base_model / "config.json").items() >= told.items()
    assert torch.equal(AutoModelForCausalLM.from_pretrained(base_model)(input_ids=ids).logits, before)
    # A reader that looks at the earlier place alone.
    earlier = {name: value for name, value in read(base_model / "config.json").items() if name != "rope_parameters"}
    (base_model / "config.json").write_text(json.dumps(earlier))
    assert torch.equal(AutoModelForCausalLM.from_pretrained(base_model)(input_ids=ids).logits, before)


def test_without_scaling_none_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}')
    saving.for_all_readers(tmp_path)
    told = read(tmp_path / "config.json")
    assert (told["rope_theta"], told["rope_scaling"]) == (10_000.0, None)
    # Where kinds of layers have one each, nothing is made up.
    (tmp_path / "config.json").write_text('{"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}')
    saving.for_all_readers(tmp_path)
    assert "rope_theta" not in read(tmp_path / "config.json")


@pytest.mark.parametrize("kind", ["tokenizer", "chatml"])
def test_a_tokenizer_of_a_known_class_cuts_text_as_before(kind, request, tmp_path):
    made = request.getfixturevalue(kind)
    made.save_pretrained(tmp_path)
    told = read(tmp_path / "tokenizer_config.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told | {"extra_special_tokens": ["<|im_start|>"]}))
    saving.for_all_readers(tmp_path)
    told = read(tmp_path / "tokenizer_config.json")
    assert told["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert told["additional_special_tokens"] == ["<|im_start|>"] and "extra_special_tokens" not in told
    again = AutoTokenizer.from_pretrained(tmp_path)
    for split in (False, True):
        options = {"add_special_tokens": False, "split_special_tokens": split}
        assert again(TEXT, **options)["input_ids"] == made(TEXT, **options)["input_ids"]
    assert again.chat_template == made.chat_template


def test_adapter_and_checkpoints_name_a_class_that_all_know(base_model, tokenizer):
    config = small_training.make(base_model, tokenizer)
    trainer.train(config)
    folders = [config.paths.adapter("5_seed0"), *config.paths.training("5_seed0").glob("checkpoint-*")]
    assert len(folders) == 3
    for folder in folders:
        assert read(folder / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert loading.load_adapter(config.model, folders[1]) is not None
