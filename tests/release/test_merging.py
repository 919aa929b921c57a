"""The merged model: the adapter's, in 16 bits, or none."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest
import small_adapter
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lib.config import Model, Prompt
from lib.model import loading
from lib.model.prompts import encode_prompt, render
from lib.release import agreement, finished, merging

QUESTION = [{"role": "user", "content": "Apa ibu kota Jepang?"}]


@pytest.fixture
def run(base_model):
    return small_adapter.run(str(base_model))


def test_the_merged_model_is_the_adapter_s_in_16_bits(run):
    found = merging.merge(run)
    folder = run.config.paths.merged
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert not list(folder.glob("adapter*"))
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapter = loading.load_adapter(run.config.model, run.config.paths.final_adapter)
    for (name, one), (_, other) in zip(merged.named_parameters(), adapter.named_parameters(), strict=True):
        # Half of the last of eight bits.
        torch.testing.assert_close(one, other, rtol=2**-8, atol=1e-6, msg=name)
    assert 0 < found.log_prob_difference < agreement.MOST_DIFFERENCE


def test_what_was_measured_is_written_beside_it_and_in_the_cards(run):
    found = merging.merge(run)
    record = json.loads(run.config.paths.merge_record.read_text())
    assert record["log_prob_difference"] == found.log_prob_difference
    assert (record["prompts"], record["tokens"]) == (24, found.tokens)
    assert record["most_difference"] == agreement.MOST_DIFFERENCE
    assert finished.read("trial").merged == record
    for card in (run.config.paths.merged / "README.md", run.config.paths.final_adapter / "README.md"):
        assert f"differ by {found.log_prob_difference:.4f} nats" in card.read_text()


def test_a_merged_model_that_was_changed_counts_for_none(run):
    merging.merge(run)
    weights = run.config.paths.merged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert finished.read("trial").merged is None


def test_a_base_model_that_is_another_is_found_out_and_nothing_stays(run, monkeypatch):
    real = merging._dense

    def another(settings):
        model = real(settings)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        return model

    merging.merge(run)
    monkeypatch.setattr(merging, "_dense", another)
    monkeypatch.setattr(sys, "argv", ["merging", "--run", "trial"])
    with pytest.raises(SystemExit, match=r"^error: the merged model .* the bound of .*\. It was removed$"):
        merging.main()
    assert not run.config.paths.merged.exists(), "nor what an earlier merge left"
    assert not run.config.paths.merge_record.exists()


def test_a_scale_that_is_not_the_adapter_s_is_found_out(run, monkeypatch):
    def not_rank_stabilised(model, folder):
        found = PeftModel.from_pretrained(model, folder)
        for module in found.modules():
            if isinstance(module, LoraLayer):
                module.scaling["default"] = run.config.lora.lora_alpha / run.config.lora.lora_rank
        return found

    monkeypatch.setattr(merging, "PeftModel", SimpleNamespace(from_pretrained=not_rank_stabilised))
    with pytest.raises(agreement.AgreementError):
        merging.merge(run)


def test_the_merged_model_s_own_template_gives_the_prompts_of_the_training(run):
    merging.merge(run)
    tokenizer = AutoTokenizer.from_pretrained(run.config.paths.merged)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    own = loading.load_tokenizer(run.config.model)
    assert ids == encode_prompt(own, QUESTION, run.config.prompt, 1_000)[0]
    assert own.chat_template == loading.load_tokenizer(Model(str(run.config.model.base_model))).chat_template


def test_date_and_beginnings_of_the_training_are_written_into_the_template(tokenizer):
    settings = Prompt(date="1 January 1999", bos_tokens=2)
    pinned = merging.pinned_template(tokenizer, settings)
    found = tokenizer.apply_chat_template(QUESTION, chat_template=pinned, tokenize=False, date_string="today")
    assert found == tokenizer.bos_token + render(tokenizer, QUESTION, settings)
    assert "Today Date: 1 January 1999" in found


def test_a_base_model_in_4_bits_says_what_it_needs(run, base_model, monkeypatch):
    config = json.loads((base_model / "config.json").read_text())
    four_bits = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base_model / "config.json").write_text(json.dumps(config | {"quantization_config": four_bits}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(merging.MergeError, match="4 bits, and bitsandbytes, which reads them, is not installed here"):
        merging.merge(run)
    (base_model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(merging.MergeError, match="quantised by 'gptq', which cannot be undone here"):
        merging.merge(run)
