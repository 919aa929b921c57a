"""A base model of 4 bits, the whole way; without a GPU, on the backend that bitsandbytes has for CPUs.

`make test` runs it with `.unsloth` on the path, from where bitsandbytes comes; alone:
PYTHONPATH=.unsloth python -m pytest tests/test_four_bits.py
"""

import json
import sys
from types import SimpleNamespace

import pytest
import small_adapter
import small_training
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from lib import hardware
from lib.config import Model
from lib.model import loading
from lib.release import agreement, merging
from lib.training import backend, loraplus, trainer

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not there: make unsloth")


@pytest.fixture
def four_bits(tokenizer, tmp_path_factory):
    """A tiny Llama as public ones in 4 bits are: nf4 of bfloat16, scales in 8 bits, to be computed with in bfloat16."""
    folder = tmp_path_factory.mktemp("four_bits")
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(shape).to(torch.bfloat16).save_pretrained(folder / "dense")
    packing = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    AutoModelForCausalLM.from_pretrained(
        folder / "dense", quantization_config=packing, device_map={"": hardware.device()}
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def trainable(monkeypatch):
    """Lets a training begin without a GPU, and keeps bitsandbytes from packing weights anew, which spoils gradients."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)
    if not torch.cuda.is_available():
        monkeypatch.setattr(loading, "quantisation", lambda settings: None)


def layers(model):
    return [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


@pytest.mark.parametrize("precision", [None, torch.float32, torch.float16])
def test_its_layers_compute_in_the_precision_that_is_asked_for_and_not_in_the_checkpoint_s(four_bits, precision):
    found = layers(loading.load_base(Model(str(four_bits)), precision))
    assert len(found) == 2 * 7
    wanted = precision or loading.dtype()
    assert {(layer.compute_dtype, layer.compute_type_is_set) for layer in found} == {(wanted, True)}


def test_what_unsloth_loads_computes_in_our_precision_too(four_bits, tokenizer, monkeypatch):
    class Loads:
        """As unsloth does: with what the checkpoint says of its layers."""

        from_pretrained = staticmethod(lambda folder, **_: (AutoModelForCausalLM.from_pretrained(folder), None))
        get_peft_model = staticmethod(lambda model, **_: model)

    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=Loads))
    config = small_training.make(four_bits, tokenizer, backend="unsloth", dtype="float32")
    assert {layer.compute_dtype for layer in layers(backend.fresh_adapter(config))} == {torch.float32}


def test_in_training_adapter_and_optimizer_have_32_bits_and_the_loss_falls(
    four_bits, tokenizer, monkeypatch, trainable
):
    made, optimizer = [], loraplus.optimizer
    monkeypatch.setattr(loraplus, "optimizer", lambda *given: made.append((given[0], optimizer(*given))) or made[0][1])
    log = trainer.train(small_training.make(four_bits, tokenizer, learning_rate=5e-3, epochs=4.0))
    [(model, used)] = made
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    moments = [state[name] for state in used.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert len(moments) == 2 * 2 * 7 * 2 and {moment.dtype for moment in moments} == {torch.float32}
    measured = log["validation_loss"].dropna()
    assert measured.iloc[-1] < measured.iloc[0] - 0.5


def test_a_saved_adapter_gives_the_logits_of_the_training(four_bits, tokenizer, monkeypatch, trainable):
    kept, save = [], trainer.save_adapter
    monkeypatch.setattr(trainer, "save_adapter", lambda model, *rest: kept.append(model) or save(model, *rest))
    config = small_training.make(four_bits, tokenizer, learning_rate=5e-3)
    trainer.train(config)
    loaded = loading.load_adapter(config.model, config.paths.adapter(config.name))
    ids = torch.arange(20, device=loaded.device).reshape(1, 20)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, kept[0].eval()(ids).logits, rtol=1e-2, atol=1e-2)


def test_in_evaluation_the_adapter_stays_beside_the_weights(four_bits):
    run = small_adapter.run(str(four_bits))
    files = run.config.paths
    loaded = loading.load_adapter(run.config.model, files.final_adapter)
    assert [layer.merged for layer in loaded.modules() if isinstance(layer, LoraLayer)] == [False] * 14
    dense = PeftModel.from_pretrained(merging._dense(run.config.model), files.final_adapter).eval()
    examples = agreement.drawn(run.config, loading.load_tokenizer(run.config.model))
    found = agreement.between(agreement.ratings(loaded, examples), agreement.ratings(dense, examples), len(examples))
    # Added into 4 bits, it would be rounded away to the next of sixteen values. bitsandbytes multiplies in bfloat16
    # where the processor has instructions for it, which alone makes 0.025.
    assert found.log_prob_difference < agreement.MOST_DIFFERENCE


def test_the_merged_model_is_the_adapter_on_what_the_four_bits_say(four_bits):
    run = small_adapter.run(str(four_bits))
    found = merging.merge(run)
    assert found.log_prob_difference < agreement.MOST_DIFFERENCE
    folder = run.config.paths.merged
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    # Not the sum of the adapter and the weights from before they had 4 bits, nor far from it.
    name = "model.layers.0.self_attn.o_proj"
    adapter = load_file(run.config.paths.final_adapter / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.{name}.lora_{matrix}.weight"] for matrix in "AB")
    lora = run.config.lora
    before = load_file(four_bits / "dense" / "model.safetensors")[f"{name}.weight"].float()
    merged = load_file(folder / "model.safetensors")[f"{name}.weight"].float()
    error = (merged - before - lora.lora_alpha / lora.lora_rank**0.5 * b @ a).abs().mean() / before.abs().mean()
    assert 0.01 < error < 0.15
