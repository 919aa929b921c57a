import copy
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from lib import paths
from lib.config import Lora, Model
from lib.model import loading
from lib.model.loading import ModelError


@pytest.fixture
def llama_1b():
    """The shape of Llama 3.2 1B, without memory for its weights."""
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def test_the_papers_adapter_has_the_papers_count_of_parameters(llama_1b):
    assert sum(parameter.numel() for parameter in llama_1b.parameters()) == 1_235_814_400
    table = loading.trainable_parameters(loading.attach_lora(llama_1b, Lora()))
    assert table.loc["all", "trained"] == 22_544_384


def test_parameters_are_counted_by_projection(llama_1b):
    table = loading.trainable_parameters(loading.attach_lora(llama_1b, Lora(lora_rank=16)))
    assert list(table.index) == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "all",
    ]  # fmt: skip
    assert table.loc["k_proj"].to_dict() == {
        "layers": 16, "A": 16 * 16 * 2048, "B": 16 * 16 * 512, "trained": 16 * 16 * 2560,
    }  # fmt: skip
    assert table.loc["all", "layers"] == 7 * 16
    assert table.loc["all", "trained"] == 22_544_384 // 2


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_whose_cores_do_not_know_bfloat16_gets_float16(monkeypatch, native, expected):
    assert loading.dtype() == torch.float32 or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert loading.dtype() == expected


def test_only_the_adapter_is_trained(tiny_model):
    model = loading.attach_lora(tiny_model, Lora(lora_rank=4))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 7 * 2
    assert all("lora_A" in name or "lora_B" in name for name in trained)


def test_a_fresh_adapter_changes_no_logits(tiny_model):
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        before = tiny_model(ids).logits
        after = loading.attach_lora(tiny_model, Lora())(ids).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize(("use_rslora", "scale"), [(True, 16 / 32**0.5), (False, 0.5)])
def test_the_update_is_scaled_by_alpha_over_the_rank_or_its_root(tiny_model, use_rslora, scale):
    model = loading.attach_lora(tiny_model, Lora(lora_rank=32, lora_alpha=16, use_rslora=use_rslora))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(3, 32)
    with torch.no_grad():
        change = layer(x) - layer.base_layer(x)
        expected = scale * x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-4)


def test_a_loaded_base_model_is_in_inference_mode_with_its_own_weights(base_model, tiny_model):
    loaded = loading.load_base(Model(str(base_model)))
    assert not loaded.training
    ids = torch.arange(10).reshape(1, 10).to(loaded.device)
    if loaded.device.type == "cpu":
        assert torch.equal(loaded(ids).logits, tiny_model(ids).logits)


def test_a_saved_adapter_comes_back_with_the_same_logits(base_model, tmp_path):
    settings = Model(str(base_model))
    model = loading.attach_lora(loading.load_base(settings), Lora(lora_rank=4)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(10).reshape(1, 10).to(model.device)
    loaded = loading.load_adapter(settings, tmp_path / "adapter")
    assert not loaded.training
    with torch.no_grad():
        np.testing.assert_allclose(loaded(ids).logits.cpu(), model(ids).logits.cpu(), rtol=1e-3, atol=1e-3)


def test_an_adapter_that_is_damaged_or_of_another_model_is_refused(base_model, tmp_path):
    settings, folder = Model(str(base_model)), tmp_path / "artifacts/trial/adapters/5_seed0"
    loading.attach_lora(loading.load_base(settings), Lora(lora_rank=4)).save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    whole = load_file(weights)

    def refused(why: str) -> None:
        with pytest.raises(ModelError, match=rf"{base_model}: {why}.*\. Remove it and run `make report RUN=trial"):
            loading.load_adapter(settings, folder)

    save_file(dict(list(whole.items())[1:]), weights)
    refused("UserWarning: Found missing adapter keys")
    save_file({name: tensor[:, :-1].contiguous() for name, tensor in whole.items()}, weights)
    refused("RuntimeError: Error")
    os.truncate(weights, 100)
    refused("adapter_model.safetensors is damaged or cut short")


def test_a_missing_adapter_is_named(base_model, tmp_path):
    with pytest.raises(ModelError, match=r"no adapter in .*/nowhere: run `make report` first"):
        loading.load_adapter(Model(str(base_model)), tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder-at-all"])
def test_a_folder_that_is_not_there_is_named(name):
    for load in (loading.load_base, loading.load_tokenizer):
        with pytest.raises(
            ModelError, match=f"BASE_MODEL={name}: there is no such folder or file, and it is not a hub id"
        ):
            load(Model(name))


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=f"BASE_MODEL={tmp_path}: no config.json in that folder"):
        loading.load_base(Model(str(tmp_path)))


def refused(base_model, load=loading.load_base) -> str:
    """What is said of this base model between where it is and what to do."""
    with pytest.raises(ModelError) as error:
        load(Model(str(base_model)))
    said = str(error.value)
    begin = f"the base model '{base_model}' cannot be loaded from {base_model}: "
    end = ". Get it again, or name another folder with BASE_MODEL"
    assert said.startswith(begin) and said.endswith(end) and "\n" not in said
    return said.removeprefix(begin).removesuffix(end)


def configure(base_model, **settings) -> None:
    path = base_model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("file", "text", "load"),
    [
        ("config.json", "{", loading.load_base),
        ("config.json", "[]", loading.load_base),
        ("generation_config.json", "{", loading.load_base),
        ("generation_config.json", "{", loading.load_generation_config),
        ("tokenizer.json", '{"model": ', loading.load_tokenizer),
        ("tokenizer_config.json", "", loading.load_tokenizer),
        ("model.safetensors", "", loading.load_base),
    ],
)
def test_a_damaged_file_of_a_base_model_is_named(base_model, file, text, load):
    (base_model / file).write_text(text)
    assert refused(base_model, load).startswith(f"{file} is ")


def test_weights_that_are_cut_short_are_named(base_model):
    weights = base_model / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    assert refused(base_model).startswith("model.safetensors is damaged or cut short")


def test_a_tokenizer_that_lacks_its_parts_is_refused(base_model):
    (base_model / "tokenizer.json").write_text("{}")
    assert refused(base_model, loading.load_tokenizer) == "KeyError: 'added_tokens'"


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(base_model, tokenizer):
    configure(base_model, vocab_size=len(tokenizer) - 1)
    assert refused(base_model, loading.load_tokenizer) == (
        f"its tokenizer has the token id {len(tokenizer) - 1:,}, and its config.json a vocab_size of "
        f"{len(tokenizer) - 1:,}"
    )


def test_a_special_token_beyond_the_vocabulary_that_no_prompt_has_is_none_too_many(base_model, tokenizer):
    made = copy.deepcopy(tokenizer)
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    made.save_pretrained(base_model)
    assert loading.load_tokenizer(Model(str(base_model))).convert_tokens_to_ids("<image>") == len(tokenizer)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_hidden_layers": 3}, "some weights that its config.json describes are not in its files (9, such as mod"),
        ({"num_hidden_layers": 1}, "its weights are of layers that its config.json does not have (9, such as model."),
        ({"intermediate_size": 32}, "its weights have another shape than its config.json describes (6, such as model"),
        ({"tie_word_embeddings": False}, "that its config.json describes are not in its files (1, such as lm_head.we"),
        ({"model_type": "gpt2"}, "no causal language model or not that of its model_type 'gpt2' (GPT2LMHeadModel)"),
        ({"model_type": "mistral"}, "its config.json names the architecture LlamaForCausalLM, which is no causal"),
        ({"architectures": None, "model_type": "gpt2"}, "weights that its config.json describes are not in its files"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(base_model, changed, said):
    configure(base_model, **changed)
    assert said in refused(base_model)


def test_an_encoder_is_refused(base_model, tokenizer):
    BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(base_model)
    assert "names the architecture BertForMaskedLM, which is no causal language model" in refused(base_model)


def test_a_model_that_names_no_architecture_is_known_by_its_weights(base_model):
    configure(base_model, architectures=None)
    assert loading.load_base(Model(str(base_model))).config.model_type == "llama"


def test_a_machine_that_is_too_small_is_not_taken_for_a_damaged_model(base_model, monkeypatch):
    def full(*given, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(RuntimeError, match="allocate memory"):
        loading.load_base(Model(str(base_model)))


def test_a_model_whose_reader_is_not_installed_says_so(base_model, monkeypatch):
    def absent(*_, **__):
        raise ImportError("Using `bitsandbytes` 4-bit quantization requires bitsandbytes")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", absent)
    with pytest.raises(ModelError, match=r"cannot be loaded from .*: Using `bitsandbytes` 4-bit .* requires"):
        loading.load_base(Model(str(base_model)))


def test_a_tokenizer_with_a_pad_token_of_its_own_keeps_it(base_model):
    assert loading.load_tokenizer(Model(str(base_model))).pad_token == "<|finetune_right_pad_id|>"


@pytest.mark.parametrize("pad", [None, "<|eot_id|>"])
def test_a_tokenizer_that_pads_with_its_end_or_not_at_all_is_given_another_pad(base_model, pad):
    path = base_model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": pad}))
    tokenizer = loading.load_tokenizer(Model(str(base_model)))
    assert tokenizer.pad_token == "<|finetune_right_pad_id|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_a_tokenizer_that_ends_turns_and_pads_with_one_token_pads_with_what_parts_documents(base_model, chatml):
    chatml.save_pretrained(base_model)
    tokenizer = loading.load_tokenizer(Model(str(base_model)))
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")


def test_the_end_of_a_text_is_no_padding_where_it_ends_turns(base_model, chatml):
    made = copy.deepcopy(chatml)
    made.eos_token = made.pad_token = "<|endoftext|>"
    made.save_pretrained(base_model)
    with pytest.raises(ModelError, match=r"pads with '<\|endoftext\|>', which also ends a turn"):
        loading.load_tokenizer(Model(str(base_model)))


def test_a_tokenizer_without_any_spare_token_is_refused(base_model):
    for name in ("tokenizer_config.json", "tokenizer.json"):
        path = base_model / name
        text = path.read_text().replace("<|finetune_right_pad_id|>", "<|something_else|>")
        path.write_text(text.replace('"pad_token": "<|something_else|>"', '"pad_token": "<|eot_id|>"'))
    with pytest.raises(ModelError, match=r"pads with '<\|eot_id\|>', which also ends a turn"):
        loading.load_tokenizer(Model(str(base_model)))


def test_demo_names_the_base_model_of_this_repository():
    assert loading.base_model_folder(Model("demo")) == paths.DEMO_BASE_MODEL


def test_an_adapter_s_fingerprint_is_the_same_wherever_its_base_model_is(tmp_path):
    def fingerprint(**settings) -> str:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8} | settings))
        return loading.fingerprint(tmp_path)

    first = fingerprint(base_model_name_or_path="/here/base")
    assert fingerprint(base_model_name_or_path="/there/base") == first
    assert fingerprint(base_model_name_or_path="/here/base", r=16) != first


def test_a_fingerprint_is_of_weights_and_configuration_alone(base_model):
    first = loading.base_fingerprint(Model(str(base_model)))
    (base_model / "README.md").write_text("other words")
    assert loading.base_fingerprint(Model(str(base_model))) == first
    weights = base_model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert loading.base_fingerprint(Model(str(base_model))) != first
