"""GGUF and Modelfile. What needs llama.cpp's own converter looks for it in the folder that LLAMA_CPP names."""

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jinja2
import numpy as np
import pytest
import small_adapter
import torch
import transformers

from lib.config import Evaluation, Prompt
from lib.model import loading
from lib.model.prompts import render
from lib.parameters import load_config
from lib.release import llama_cpp, merging

HERE = os.environ.get("LLAMA_CPP", "")
needs_converter = pytest.mark.skipif(
    not (Path(HERE) / llama_cpp.CONVERTER).is_file() or not HERE, reason="LLAMA_CPP names no folder of llama.cpp"
)
TURNS = [
    {"role": "system", "content": "Jawablah singkat."},
    {"role": "user", "content": "Apa ibu kota Jepang?"},
    {"role": "assistant", "content": "Tokyo."},
    {"role": "user", "content": "Dan {Indonesia}?"},
]


@pytest.fixture
def config():
    return load_config(run="trial")


@pytest.fixture
def run(base_model):
    return small_adapter.run(str(base_model))


# --- Without a converter ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "said"),
    [("", "LLAMA_CPP names no folder"), ("nowhere", "LLAMA_CPP=nowhere is not a checkout of llama.cpp")],
)
def test_without_llama_cpp_the_message_has_the_cure(folder, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["llama_cpp", "--run", "trial", "--llama-cpp", folder])
    with pytest.raises(SystemExit, match=rf"^error: {said}.*git clone .* name its folder with LLAMA_CPP$"):
        llama_cpp.main()


def stand_in(folder: Path, code: str) -> Path:
    """A checkout whose converter does as it is told."""
    (folder / "gguf-py").mkdir(parents=True)
    (folder / llama_cpp.CONVERTER).write_text(
        f"import sys\nclass TextModel:\n    get_vocab_base_pre = _create_vocab_sentencepiece = None\n{code}"
    )
    return folder


def test_a_converter_that_fails_is_told_in_its_own_words_and_leaves_nothing(run, tmp_path):
    failing = stand_in(tmp_path / "llama.cpp", "def main():\n    raise NotImplementedError('not this one')\n")
    with pytest.raises(llama_cpp.GgufError, match=r"wrote no file from .*not this one \(it does not know how"):
        llama_cpp.convert(run, failing)
    assert not run.config.paths.gguf.exists() and not run.config.paths.gguf_record.exists()


def test_the_converter_is_asked_for_bfloat16_of_the_merged_model(run, tmp_path, monkeypatch):
    told = tmp_path / "told.json"
    code = (
        "def main():\n    import json\n"
        f"    open({str(told)!r}, 'w').write(json.dumps(sys.argv))\n    open(sys.argv[3], 'w')\n"
    )
    merging.merge(run)
    checkout = stand_in(tmp_path / "llama.cpp", code)
    monkeypatch.setattr(llama_cpp, "load", lambda *_: (_ for _ in ()).throw(llama_cpp.GgufError("far enough")))
    with pytest.raises(llama_cpp.GgufError, match="far enough"):
        llama_cpp.convert(run, checkout)
    _, model, _, outfile, *rest = json.loads(told.read_text())
    assert model == str(run.config.paths.merged) and outfile.endswith("/model.gguf")
    assert rest == ["--outtype", "bf16"]


# --- The Modelfile ---------------------------------------------------------------------------------------------------


def in_ollama(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama makes of a template: its language, as far as ours uses it, said in Jinja's."""
    # A statement in Jinja would swallow the line end behind it, and one at the end of the text.
    environment = jinja2.Environment(trim_blocks=False, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    for go, jinja in {
        "{{ if .System }}": "{% if system %}",
        "{{ .System }}": "{{ system }}",
        "{{ range $i, $_ := .Messages }}": "{% for message in messages %}",
        '{{ if eq .Role "user" }}': "{% if message.role == 'user' %}",
        '{{ else if eq .Role "assistant" }}': "{% elif message.role == 'assistant' %}",
        "{{ .Content }}": "{{ message.content }}",
        "{{ if gt (len (slice $.Messages $i)) 1 }}": "{% if not loop.last %}",
        "{{ else }}": "{% else %}",
    }.items():
        assert go in template
        template = template.replace(go, jinja)
    opened: list[str] = []

    def closing(word: re.Match) -> str:
        if word[1] in ("if", "for"):
            opened.append(word[1])
        return word[0] if word[1] else "{% end" + opened.pop() + " %}"

    template = re.sub(r"\{% (if|for) |\{\{ end \}\}", closing, template)
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    return environment.from_string(template).render(messages=messages, system=system)


@pytest.mark.parametrize("messages", [TURNS[1:2], TURNS[:2], TURNS[1:], TURNS])
@pytest.mark.parametrize("date", ["26 July 2024", "1 January 1999"])
def test_ollama_s_prompt_is_the_chat_template_s(tokenizer, config, messages, date):
    config = replace(config, prompt=Prompt(date=date))
    # Ollama puts the beginning of text there.
    found = tokenizer.bos_token + in_ollama(llama_cpp.template(tokenizer, config), messages)
    assert found == render(tokenizer, messages, config.prompt, add_generation_prompt=True)


def test_an_answer_at_the_end_is_gone_on_with(tokenizer, config):
    found = in_ollama(llama_cpp.template(tokenizer, config), TURNS[1:3])
    assert found.endswith("<|start_header_id|>assistant<|end_header_id|>\n\nTokyo.")


def test_two_beginnings_of_text_are_two(tokenizer, config):
    config = replace(config, prompt=Prompt(bos_tokens=2))
    assert in_ollama(llama_cpp.template(tokenizer, config), TURNS).startswith(
        f"{tokenizer.bos_token}<|start_header_id|>"
    )


def test_a_chat_template_whose_turns_differ_has_no_modelfile(tokenizer, config, monkeypatch):
    other = "{% for m in messages %}{{ loop.index }}{{ m.content }}<|eot_id|>{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", other)
    with pytest.raises(llama_cpp.GgufError, match="differently at the beginning than later"):
        llama_cpp.template(tokenizer, config)


def test_the_modelfile_samples_as_the_evaluation_does(tokenizer, tiny_model, config):
    tiny_model.generation_config.update(temperature=0.6, top_p=0.9, top_k=None)
    tiny_model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<|end_of_text|>"),
    ]
    lines = llama_cpp.modelfile(tokenizer, tiny_model, config).splitlines()
    assert "FROM ./model.gguf" in lines
    parameters = [line.removeprefix("PARAMETER ") for line in lines if line.startswith("PARAMETER")]
    assert sorted(parameters) == [
        "repeat_penalty 1", 'stop "<|end_of_text|>"', 'stop "<|eot_id|>"', "temperature 0.6", "top_k 50", "top_p 0.9",
    ]  # fmt: skip
    chosen = replace(config, evaluation=Evaluation(temperature=0.3, top_k=7))
    lines = llama_cpp.modelfile(tokenizer, tiny_model, chosen).splitlines()
    assert {"PARAMETER temperature 0.3", "PARAMETER top_k 7", "PARAMETER top_p 0.9"} <= set(lines)
    greedy = replace(config, evaluation=Evaluation(do_sample=False, decoding_runs=1))
    assert "PARAMETER temperature 0" in llama_cpp.modelfile(tokenizer, tiny_model, greedy).splitlines()


# --- Reading it back -------------------------------------------------------------------------------------------------


class Reader:
    """A GGUF file of a model, as the package gguf reads one."""

    def __init__(self, model, tokenizer):
        config = model.config
        told = {
            "general.architecture": "llama",
            "llama.block_count": config.num_hidden_layers,
            "llama.embedding_length": config.hidden_size,
            "llama.feed_forward_length": config.intermediate_size,
            "llama.attention.head_count": config.num_attention_heads,
            "llama.attention.head_count_kv": config.num_key_value_heads,
            "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "llama.rope.freq_base": config.rope_parameters["rope_theta"],
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
            "tokenizer.ggml.tokens": tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))),
        }
        self.told = told
        self.tensors = []
        for name, parameter in model.named_parameters():
            values = parameter.detach().numpy().copy()
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(
                name.split(".")[-2]
            )
            if heads:
                # As llama.cpp's converter: the halves of a head become pairs of neighbours.
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
            self.tensors.append(SimpleNamespace(name=name, data=values, tensor_type=None))

    @property
    def fields(self):
        return {name: SimpleNamespace(contents=lambda value=value: value) for name, value in self.told.items()}


@pytest.fixture
def reader(tiny_model, tokenizer, monkeypatch):
    made = Reader(tiny_model, tokenizer)
    package = SimpleNamespace(
        GGUFReader=lambda file: made,
        MODEL_ARCH=SimpleNamespace(LLAMA=0),
        get_tensor_name_map=lambda arch, layers: SimpleNamespace(get_name=lambda name, try_suffixes: name),
        quants=SimpleNamespace(dequantize=lambda data, kind: data),
    )
    monkeypatch.setattr(llama_cpp, "_gguf_package", lambda folder: package)
    return made


def read_back(model, tokenizer):
    return llama_cpp.load(Path("model.gguf"), Path(), model, tokenizer)


def test_weights_that_are_the_model_s_are_found_unchanged(reader, tiny_model, tokenizer):
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    assert read_back(tiny_model, tokenizer) == {
        "weights": len(reader.tensors), "changed": 0, "vocabulary": len(tokenizer),
    }  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())


def test_weights_that_are_others_are_counted_and_taken(reader, tiny_model, tokenizer):
    named = {tensor.name: tensor for tensor in reader.tensors}
    named["model.norm.weight"].data += 1
    named["model.layers.1.self_attn.k_proj.weight"].data *= np.float32(1.01)
    before = tiny_model.model.norm.weight.detach().clone()
    assert read_back(tiny_model, tokenizer)["changed"] == 2
    torch.testing.assert_close(tiny_model.model.norm.weight.detach(), before + 1)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("llama.rope.freq_base", 500_000.0, r"llama\.rope\.freq_base = 500000\.0, not 10000\.0"),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5, "layer_norm_rms_epsilon"),
        ("llama.attention.head_count_kv", 4, r"head_count_kv = 4, not 2"),
        ("tokenizer.ggml.pre", "gpt-2", "'gpt-2', not 'llama-bpe'"),
        ("tokenizer.ggml.tokens", ["a", "b"], "another vocabulary"),
        ("general.architecture", "qwen2", "only Llama's can be compared"),
        ("tokenizer.ggml.bos_token_id", None, "bos_token_id = None"),
    ],
)
def test_a_file_that_tells_of_another_model_is_refused(reader, tiny_model, tokenizer, name, value, said):
    reader.told[name] = value
    with pytest.raises(llama_cpp.GgufError, match=said):
        read_back(tiny_model, tokenizer)


def test_a_weight_that_is_missing_is_named(reader, tiny_model, tokenizer):
    reader.tensors = [tensor for tensor in reader.tensors if tensor.name != "model.norm.weight"]
    with pytest.raises(llama_cpp.GgufError, match=r"has no model\.norm\.weight"):
        read_back(tiny_model, tokenizer)


# --- With llama.cpp's own converter ----------------------------------------------------------------------------------


@needs_converter
def test_the_converted_file_is_the_merged_model(run):
    found = llama_cpp.convert(run, llama_cpp.checkout(HERE))
    assert found["changed"] == 0 and found["vocabulary"] == len(loading.load_tokenizer(run.config.model))
    assert found["log_prob_difference"] < 0.05
    assert sorted(path.name for path in run.config.paths.gguf.iterdir()) == ["Modelfile", "model.gguf"]
    assert json.loads(run.config.paths.gguf_record.read_text()) == found


@needs_converter
def test_llama_cpp_itself_cuts_texts_and_rates_tokens_as_the_merged_model_does(run, tokenizer):
    engine = pytest.importorskip("llama_cpp", reason="the package llama-cpp-python is not installed")
    llama_cpp.convert(run, llama_cpp.checkout(HERE))
    there = engine.Llama(str(run.config.paths.gguf / "model.gguf"), n_ctx=512, logits_all=True, verbose=False)
    here = transformers.AutoModelForCausalLM.from_pretrained(run.config.paths.merged, dtype=torch.float32).eval()
    for messages in (TURNS[1:2], TURNS, [{"role": "user", "content": "I'LL  naïve 12345678 日本\n\n <|eot_id|> “ya”"}]):
        text = render(tokenizer, messages, run.config.prompt, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert there.tokenize(text.encode(), add_bos=False, special=True) == ids
        there.reset()
        there.eval(ids)
        with torch.no_grad():
            expected = here(torch.tensor([ids])).logits[0].log_softmax(-1)
        found = torch.from_numpy(there.scores[: len(ids)].copy()).log_softmax(-1)
        # It rounds what the layers hand on to bfloat16, too.
        assert (found - expected).abs().mean() < 0.05


@needs_converter
def test_a_file_says_how_its_own_tokenizer_cuts_text(base_model, tmp_path):
    folder = shutil.copytree(base_model, tmp_path / "smollm")
    told = json.loads((folder / "tokenizer.json").read_text())
    steps = [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False}]
    told["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [steps[0], steps[1] | {"trim_offsets": True, "use_regex": True}],
    }
    (folder / "tokenizer.json").write_text(json.dumps(told))
    run = small_adapter.run(str(folder))
    assert llama_cpp.convert(run, llama_cpp.checkout(HERE))["changed"] == 0


@needs_converter
def test_a_converted_file_of_another_model_is_removed(run, monkeypatch):
    merging.merge(run)
    real = llama_cpp._run_converter

    def damaged(checkout, model, outfile):
        real(checkout, model, outfile)
        data = bytearray(outfile.read_bytes())
        data[-20_000:] = bytes(20_000)
        outfile.write_bytes(data)

    monkeypatch.setattr(llama_cpp, "_run_converter", damaged)
    with pytest.raises(ValueError, match="the GGUF file"):
        llama_cpp.convert(run, llama_cpp.checkout(HERE))
    assert not run.config.paths.gguf.exists() and not run.config.paths.gguf_record.exists()
