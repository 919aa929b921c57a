import json
import shutil
from pathlib import Path

import gguf as package
import numpy as np
import pytest
import small_gguf
import torch
from transformers import LlamaForCausalLM

from lib import paths
from lib.config import Model
from lib.model import generation, gguf, loading, prompts
from lib.model.loading import ModelError

TEXTS = (
    "Apa ibu kota Indonesia?",
    "Pada  2024, 1.234.567 orang\n\n  lahir   di 12 kota.",
    "don't  DON'T\tselesai \n",
    "café naïve 日本 🙂",
    "titik.Koma,\r\n(kurung) --- akhir  ",
    "<|im_start|>bukan giliran<|im_end|><|eot_id|>",
    "Zu\u0308rich",
)


@pytest.fixture(params=["smollm", "llama-bpe"])
def original(request):
    """A tokenizer, and what llama.cpp calls its way of cutting text."""
    return request.getfixturevalue({"smollm": "chatml", "llama-bpe": "tokenizer"}[request.param]), request.param


@pytest.fixture
def file(tiny_model, chatml, tmp_path):
    """A file as small public models have it: all of the tokenizer that ends turns with <|im_end|>."""
    return write(tmp_path / "tiny.gguf", tiny_model, chatml)


def write(path, model, tokenizer, cuts="smollm", **changes):
    # As many tokens as the model has rows.
    return small_gguf.write(path, fitting(model, tokenizer), tokenizer, cuts, **changes)


def fitting(model, tokenizer):
    if model.config.vocab_size != len(tokenizer):
        torch.manual_seed(1)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.config.pad_token_id = tokenizer.pad_token_id
    return model


def unpacked_folders():
    return [path for path in paths.base_models().glob("*") if path.is_dir()] if paths.base_models().is_dir() else []


def refused(file) -> str:
    """The sentence with which a file is refused, and that nothing was unpacked."""
    with pytest.raises(ModelError) as error:
        loading.base_model_folder(Model(str(file)))
    assert not unpacked_folders()
    assert str(error.value).startswith(f"BASE_MODEL={file}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


# --- The same model --------------------------------------------------------------------------------------------------


def test_a_file_is_the_model_that_it_was_written_from(tiny_model, original, tmp_path):
    tokenizer, cuts = original
    file = write(tmp_path / "tiny.gguf", tiny_model, tokenizer, cuts)
    loaded = loading.load_base(Model(str(file)))
    ids = torch.arange(40).reshape(2, 20).to(loaded.device)
    if loaded.device.type == "cpu":
        assert torch.equal(loaded(ids).logits, tiny_model(ids).logits)


def test_its_tokenizer_cuts_and_joins_text_as_the_model_s_own(tiny_model, original, tmp_path):
    tokenizer, cuts = original
    read = loading.load_tokenizer(Model(str(write(tmp_path / "tiny.gguf", tiny_model, tokenizer, cuts))))
    for text in TEXTS:
        for split in (True, False):
            wanted = tokenizer(text, add_special_tokens=False, split_special_tokens=split)["input_ids"]
            assert read(text, add_special_tokens=False, split_special_tokens=split)["input_ids"] == wanted, text
        assert read.decode(wanted) == tokenizer.decode(wanted)
        assert read.decode(wanted, skip_special_tokens=True) == tokenizer.decode(wanted, skip_special_tokens=True)


def test_a_file_and_a_folder_make_the_same_examples_and_completions(tiny_model, chatml, tmp_path, settings):
    file = write(tmp_path / "tiny.gguf", tiny_model, chatml)
    tiny_model.generation_config.eos_token_id = chatml.eos_token_id
    tiny_model.save_pretrained(tmp_path / "folder")
    chatml.save_pretrained(tmp_path / "folder")
    messages = prompts.to_messages(prompts.to_sharegpt("Apa ibu kota Jepang?", "Ibu kota Jepang adalah Tokyo, 1868."))
    made = []
    for name in (file, tmp_path / "folder"):
        tokenizer, model = loading.load_tokenizer(Model(str(name))), loading.load_base(Model(str(name)))
        example = prompts.encode_example(tokenizer, messages, settings, 200)
        prompt, _ = prompts.encode_prompt(tokenizer, messages[:-1], settings, 200)
        decoding = generation.decoding_of(model, prompts.end_of_turn_id(tokenizer, settings), 12, do_sample=False)
        written = generation.decode(model, [prompt], np.zeros((1, 1, 12)), decoding)
        made.append((example, prompt, written, tokenizer.pad_token, tokenizer.chat_template))
    assert made[0] == made[1]
    assert made[0][0].input_ids[-1] == chatml.convert_tokens_to_ids("<|im_end|>")


def test_packed_weights_are_unpacked_to_what_the_file_says(tiny_model, chatml, tmp_path):
    q8 = package.GGMLQuantizationType.Q8_0
    file = write(tmp_path / "tiny.gguf", tiny_model, chatml, quantised=q8)
    loaded = loading.load_base(Model(str(file)))
    kept, original = (model.model.layers[1].mlp.up_proj.weight for model in (loaded, tiny_model))
    wanted = package.dequantize(package.quantize(original.detach().numpy(), q8), q8)
    if loaded.device.type == "cpu":
        np.testing.assert_array_equal(kept.detach().numpy(), wanted)
    assert not np.array_equal(wanted, original.detach().numpy())
    assert "quantization_config" not in (gguf.unpacked(file) / "config.json").read_text()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_stretched_positions_of_llama_3_are_found_in_the_file(tiny_model, tokenizer, tmp_path, factor):
    stretched = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    stretched |= {"original_max_position_embeddings": 8192, "rope_theta": 500_000.0}
    tiny_model.config.rope_parameters = stretched
    tiny_model.config.max_position_embeddings = 131_072
    model = LlamaForCausalLM(tiny_model.config).eval()
    model.load_state_dict(tiny_model.state_dict())
    plain = 500_000.0 ** -(np.arange(0, 8, 2) / 8)
    factors = (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    assert factors.max() == pytest.approx(factor, rel=1e-3)
    file = write(tmp_path / "tiny.gguf", model, tokenizer, "llama-bpe", weights={"rope_freqs.weight": factors})
    loaded = loading.load_base(Model(str(file)))
    assert loaded.config.rope_parameters == stretched | {"factor": pytest.approx(factor)}
    ids, positions = torch.arange(20).unsqueeze(0), torch.arange(0, 20_000, 1_000).unsqueeze(0)
    if loaded.device.type == "cpu":
        with torch.no_grad():
            found, wanted = (m(ids, position_ids=positions).logits for m in (loaded, model))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    (tmp_path / "other").mkdir()
    shutil.rmtree(paths.base_models())
    other = write(
        tmp_path / "other/tiny.gguf", model, tokenizer, "llama-bpe", weights={"rope_freqs.weight": factors[::-1].copy()}
    )
    assert "it stretches positions in another way than Llama 3" in refused(other)


# --- Special tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("says", ["<|im_start|>", "<|endoftext|>", None])
def test_the_end_is_what_the_chat_template_writes_whatever_the_file_says(tiny_model, chatml, tmp_path, says):
    number = None if says is None else chatml.convert_tokens_to_ids(says)
    file = write(tmp_path / "tiny.gguf", tiny_model, chatml, ggml__eos_token_id=number, ggml__padding_token_id=number)
    settings = Model(str(file))
    tokenizer, model = loading.load_tokenizer(settings), loading.load_base(settings)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    )  # fmt: skip
    ends = chatml.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.generation_config.eos_token_id == ends, "the end of a turn and of a text, and not the start of a turn"
    assert model.config.eos_token_id == ends[0]
    assert loading.load_generation_config(settings).eos_token_id == ends


@pytest.mark.parametrize("name", ["bos", "eos", "padding"])
def test_a_special_token_that_the_vocabulary_does_not_have_is_refused(tiny_model, chatml, tmp_path, name):
    file = write(tmp_path / "tiny.gguf", tiny_model, chatml, **{f"ggml__{name}_token_id": 70_000})
    assert f"its {name}_token_id is 70000, and it has only {len(chatml)} tokens" in refused(file)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            None,
            "it has no chat template, so it does not say how a turn begins and ends. Use the GGUF file of an",
        ),
        ("", "it has no chat template"),
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}", "without a special token"),
        ("{{ messages[0]['content'] }}", "does not write every message once"),
        ("{% for m in messages %}", "its chat template cannot be used: the base model's chat template fails on turns"),
        ("{{ raise_exception('not this one') }}", "of user, assistant (TemplateError: not this one); use a base model"),
    ],
)
def test_a_chat_template_that_cannot_end_a_turn_is_refused(tiny_model, chatml, tmp_path, template, said):
    assert said in refused(write(tmp_path / "tiny.gguf", tiny_model, chatml, chat_template=template))


def test_a_sentencepiece_vocabulary_is_read_with_its_own_end(tiny_model, tokenizer, tmp_path):
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz[]INST/", "▁a", "ha", "lo", "halo", "▁halo"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    types = [2, 3, 3, *[6] * 256, *[1] * len(letters)]
    tiny_model.resize_token_embeddings(len(tokens), mean_resizing=False)
    file = small_gguf.write(
        tmp_path / "tiny.gguf", tiny_model, tokenizer, "default",
        ggml__model="llama", ggml__tokens=tokens, ggml__token_type=types, ggml__merges=None, ggml__pre=None,
        ggml__scores=[-float(n) for n in range(len(tokens))], ggml__unknown_token_id=0,
        ggml__bos_token_id=1, ggml__eos_token_id=2, ggml__padding_token_id=None,
        chat_template="{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}"
        " [/INST]{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}",
    )  # fmt: skip
    read = loading.load_tokenizer(Model(str(file)))
    assert (read.bos_token, read.eos_token, read.pad_token) == ("<s>", "</s>", "<unk>")
    for text in ("halo halo", "a  b é 12 .", "titik ."):
        assert read.decode(read(text, add_special_tokens=False)["input_ids"]) == text
    assert loading.load_generation_config(Model(str(file))).eos_token_id == [2]


# --- Files that are no model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: 4 + int(len(data) * share)])
    assert "it is damaged or cut off (" in refused(file)


def test_a_file_with_damaged_names_is_refused(file):
    file.write_bytes(file.read_bytes().replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.\xff\xfe\xffens"))
    assert "it is damaged or cut off (UnicodeDecodeError" in refused(file)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_gguf_is_refused(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)
    assert f"it is not a GGUF file, since it begins with {content[:4]!r}. Get it again" in refused(tmp_path / "x.gguf")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    said = refused(tmp_path / "model.bin")
    assert said.endswith("it is neither a folder nor a .gguf file; name a model's folder or a .gguf file")


def test_an_architecture_that_transformers_does_not_know_is_refused(tiny_model, chatml, tmp_path):
    file = write(tmp_path / "tiny.gguf", tiny_model, chatml, architecture="clip")
    assert "transformers cannot read it (ValueError: GGUF model with architecture clip is not" in refused(file)


def test_a_packing_that_cannot_be_unpacked_is_refused(tiny_model, chatml, tmp_path):
    numbers = {"blk.0.ffn_up.weight": np.ones((64, 32), dtype=np.int32)}
    said = refused(write(tmp_path / "tiny.gguf", tiny_model, chatml, weights=numbers))
    assert "transformers cannot read it (NotImplementedError" in said and "I32" in said


def test_a_missing_weight_is_named(tiny_model, chatml, tmp_path):
    said = refused(write(tmp_path / "tiny.gguf", tiny_model, chatml, without="blk.1.ffn_up.weight"))
    assert "it has no weights for model.layers.1.mlp.up_proj.weight. If it is one of several parts, join them" in said


def test_a_weight_that_the_architecture_has_no_place_for_is_refused(tiny_model, chatml, tmp_path):
    bias = {"blk.0.attn_q.bias": np.ones(32, dtype=np.float32)}
    said = refused(write(tmp_path / "tiny.gguf", tiny_model, chatml, weights=bias))
    assert "it has 21 weights, and transformers' LlamaForCausalLM has 20, so that would be another model" in said


def test_a_matrix_of_another_size_is_refused(tiny_model, chatml, tmp_path):
    wide = {"blk.0.ffn_up.weight": np.ones((96, 32), dtype=np.float32)}
    said = refused(write(tmp_path / "x.gguf", tiny_model, chatml, weights=wide))
    assert "its model.layers.0.mlp.up_proj.weight is [96, 32], and [64, 32] by its own settings" in said


@pytest.mark.parametrize("cuts", ["default", "tekken", None])
def test_a_way_of_cutting_text_that_is_not_known_is_refused(tiny_model, chatml, tmp_path, cuts):
    said = refused(write(tmp_path / "tiny.gguf", tiny_model, chatml, ggml__pre=cuts))
    assert f"cuts text into words in the way {cuts or ''!r}, and only gpt-2, smollm, llama-bpe, qwen2 are known" in said


def test_positions_that_are_scaled_otherwise_are_refused(tiny_model, chatml, tmp_path):
    file = write(tmp_path / "tiny.gguf", tiny_model, chatml, **{"llama.rope.scaling.type": "yarn"})
    assert "it scales positions in the way 'yarn'" in refused(file)


def test_a_vocabulary_without_merges_is_refused(tiny_model, chatml, tmp_path):
    said = refused(write(tmp_path / "tiny.gguf", tiny_model, chatml, ggml__merges=None))
    assert "its tokenizer lacks its tokens, their types or their merges" in said


# --- Unpacked once ---------------------------------------------------------------------------------------------------


def test_a_file_is_unpacked_once_and_again_when_it_has_changed(file, monkeypatch):
    assert loading.is_packed(Model(str(file)))
    first = loading.base_model_folder(Model(str(file)))
    assert first.parent == paths.ROOT / "artifacts/base_models"
    assert not loading.is_packed(Model(str(file))) and not loading.is_packed(Model(str(first)))
    with monkeypatch.context() as patched:
        patched.setattr(gguf, "GGUFReader", None)
        assert loading.base_model_folder(Model(str(file))) == first
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert loading.is_packed(Model(str(file)))
    second = loading.base_model_folder(Model(str(file)))
    assert second != first and sorted(unpacked_folders()) == sorted([first, second])
    assert loading.fingerprint(first) != loading.fingerprint(second)


def test_a_file_that_was_cut_short_while_it_was_unpacked_leaves_nothing(file, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(gguf, "write_json", fails)
        with pytest.raises(KeyboardInterrupt):
            gguf.unpacked(file)
    assert [path for path in unpacked_folders() if not path.name.startswith(".")] == []
    assert (gguf.unpacked(file) / "config.json").is_file()


def test_a_file_that_has_no_room_is_refused(file, monkeypatch):
    usage = shutil.disk_usage(file.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000))
    assert "GB of disk is free: free some, or put artifacts/ on a larger disk" in refused(file)


def test_a_file_is_found_from_where_the_project_is(file, root):
    (root / "models").mkdir()
    file.rename(root / "models/Tiny.GGUF")
    assert loading.base_model_folder(Model("models/Tiny.GGUF")).name.startswith("Tiny-")


def test_what_is_told_of_a_file_names_it_and_no_place(file):
    told = loading.provenance(Model(str(file)))
    digest = json.loads((gguf.unpacked(file) / "gguf.json").read_text())["sha256"]
    assert told == {
        "source": "tiny.gguf",
        "sha256": loading.base_fingerprint(Model(str(file))),
        "gguf": "tiny.gguf",
        "gguf_sha256": digest,
    }
    assert loading.pinned(Model(str(file))) == f"artifacts/base_models/tiny-{digest[:12]}"
    file.unlink()
    kept = Model(f"artifacts/base_models/tiny-{digest[:12]}")
    assert loading.base_fingerprint(kept) == told["sha256"], "the adapter's base is found when the file is gone"
    for text in Path(loading.base_model_folder(kept)).glob("*.json"):
        assert str(file.parent) not in text.read_text()
