"""A base model from a GGUF file, unpacked once into a folder such as the hub's models have.

transformers reads the weights, of any quantisation that it knows, and they are written in 32 bits: what the file says,
to the last bit. What that reader leaves out or mistakes is taken from the file itself: special tokens, how text is cut
into words, the stretched positions of Llama 3. What does not follow from the file is refused.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from gguf import GGUFReader
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lib import paths
from lib.config import Prompt
from lib.model import byte_level
from lib.model.packaged import sha256
from lib.model.prompts import ChatTemplateError, PromptError, end_of_turn_id, render
from lib.storage import whole, write_json

#: The settings of Llama 3.1 and 3.2 that its stretched positions do not tell.
_LLAMA3_POSITIONS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
#: Where a file names no token for the end of a text, one of these is it.
_TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")

_OTHER = "Get it again, or name another .gguf file or a model's folder with BASE_MODEL"


class GgufError(ValueError):
    """A GGUF file that cannot be a base model here; the message says why, and what to do."""


def unpacked(file: Path) -> Path:
    """The folder of the model in a GGUF file: artifacts/base_models/<name>-<the first 12 digits of its SHA-256>.

    It is made on the first call, whole or not at all; a file that has changed is unpacked anew.

    Raises:
        GgufError: if the file is damaged, or no chat model that transformers can read, or if there is no room for it.
    """
    with file.open("rb") as opened:
        begins = opened.read(4)
    if begins != b"GGUF":
        raise GgufError(f"it is not a GGUF file, since it begins with {begins!r}. {_OTHER}")
    digest = sha256(file)
    place = folder(file, digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    # Several notebooks may ask at once.
    with FileLock(place.with_name(f".{place.name}.lock")):
        if not place.is_dir():
            _unpack(file, digest, place)
    return place


def folder(file: Path, digest: str) -> Path:
    """Where the model in a file with this SHA-256 is unpacked to."""
    return paths.base_models() / f"{file.stem}-{digest[:12]}"


def _unpack(file: Path, digest: str, folder: Path) -> None:
    reader = _read(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    stretched = _stretched_positions(fields, reader)
    tokenizer = _tokenizer(file, fields)
    ends = _mend_special_tokens(tokenizer, fields)
    needed, free = 4 * sum(int(tensor.n_elements) for tensor in reader.tensors), shutil.disk_usage(folder.parent).free
    if free < needed:
        raise GgufError(
            f"it unpacks to {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of disk is free: free some, or put "
            "artifacts/ on a larger disk"
        )
    model = _model(file, reader)
    if stretched:
        model.config.rope_parameters = {**model.config.rope_parameters, **stretched}
    known = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    for name, value in known.items() | {("eos_token_id", ends[0])}:
        setattr(model.config, name, value)
    model.generation_config = GenerationConfig(**known, eos_token_id=ends)
    tokenizer.model_max_length = model.config.max_position_embeddings
    with whole(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        record = {"file": file.name, "sha256": digest, "licence": str(fields.get("general.license", ""))}
        write_json(temporary / paths.GGUF_RECORD, record)


def _read(file: Path) -> GGUFReader:
    try:
        return GGUFReader(file)
    # It checks nothing: what is damaged ends in an error of any kind.
    except Exception as error:
        raise GgufError(f"it is damaged or cut off ({_first_line(error)}). {_OTHER}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip(": \n").splitlines()[0]


def _model(file: Path, reader: GGUFReader) -> PreTrainedModel:
    """The model in 32 bits, with every weight of the file."""
    try:
        model, read = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
    # An unknown architecture, an unknown quantisation, shapes that do not fit: each has another type.
    except Exception as error:
        raise GgufError(f"transformers cannot read it ({_first_line(error)}). {_OTHER}") from error
    if read["missing_keys"]:
        raise GgufError(
            f"it has no weights for {sorted(read['missing_keys'])[0]}. If it is one of several parts, join them with "
            "llama.cpp's gguf-split --merge"
        )
    there = sum(tensor.name != "rope_freqs.weight" for tensor in reader.tensors)
    taken = len(list(model.named_parameters()))
    if there != taken:
        raise GgufError(
            f"it has {there} weights, and transformers' {type(model).__name__} has {taken}, so that would be another "
            f"model. {_OTHER}"
        )
    # What it was packed as would else be saved with it, and refused.
    model.hf_quantizer = None
    del model.config.quantization_config
    # The name in the file, in a place for addresses.
    vars(model.config).pop("_model_name_or_path", None)
    # transformers takes a matrix of another size without a word.
    with torch.device("meta"):
        wanted = dict(AutoModelForCausalLM.from_config(model.config).named_parameters())
    for name, weight in model.named_parameters():
        if weight.shape != wanted[name].shape:
            sizes = f"{list(weight.shape)}, and {list(wanted[name].shape)} by its own settings"
            raise GgufError(f"its {name} is {sizes}. {_OTHER}")
    return model


def _stretched_positions(fields: dict[str, Any], reader: GGUFReader) -> dict[str, Any]:
    """The settings of positions that Llama 3.1 stretches; none for those that are not stretched.

    The file holds what each frequency is divided by; the reader ignores it. It must be what the settings make of it.
    """
    architecture = fields.get("general.architecture")
    scaling = fields.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise GgufError(f"it scales positions in the way {scaling!r}, which transformers' reader leaves out. {_OTHER}")
    factors = next((np.array(tensor.data) for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
    if factors is None:
        return {}
    most, base = round(float(factors.max()), 3), float(fields.get(f"{architecture}.rope.freq_base", 10_000.0))
    wavelengths = 2 * np.pi * base ** (np.arange(len(factors)) / len(factors))
    share = np.clip((8192 / wavelengths - 1.0) / (4.0 - 1.0), 0, 1)
    if not np.allclose(factors, 1 / (share + (1 - share) / most), rtol=1e-3):
        raise GgufError(f"it stretches positions in another way than Llama 3, by {most:g} at most. {_OTHER}")
    return {"rope_type": "llama3", "factor": most, **_LLAMA3_POSITIONS}


def _tokenizer(file: Path, fields: dict[str, Any]) -> PreTrainedTokenizerBase:
    if not fields.get("tokenizer.chat_template"):
        raise GgufError(
            "it has no chat template, so it does not say how a turn begins and ends. Use the GGUF file of an instruct "
            "model, or name a model's folder with BASE_MODEL"
        )
    if fields.get("tokenizer.ggml.model") != "gpt2":
        try:
            read = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, clean_up_tokenization_spaces=False)
        except Exception as error:
            raise GgufError(f"transformers cannot read its tokenizer ({_first_line(error)}). {_OTHER}") from error
        return read
    cuts = fields.get("tokenizer.ggml.pre", "")
    if cuts not in byte_level.CUTS:
        raise GgufError(
            f"its tokenizer cuts text into words in the way {cuts!r}, and only {', '.join(byte_level.CUTS)} are known "
            "here. Name the model's folder with BASE_MODEL"
        )
    parts: list[Any] = [fields.get(f"tokenizer.ggml.{part}") for part in ("tokens", "token_type", "merges")]
    if None in parts:
        raise GgufError(f"its tokenizer lacks its tokens, their types or their merges. {_OTHER}")
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level.tokenizer(parts[0], parts[1], parts[2], cuts),
        clean_up_tokenization_spaces=False,
        chat_template=fields["tokenizer.chat_template"],
    )


def _mend_special_tokens(tokenizer: PreTrainedTokenizerBase, fields: dict[str, Any]) -> list[int]:
    """Give the tokenizer the special tokens that the file names, but as its end the one that its template writes.

    Returns:
        All tokens that end an answer: the end of a turn first, then those that end a text.
    """
    size = len(fields["tokenizer.ggml.tokens"])
    named = {}
    for name in ("bos", "eos", "eot", "unknown", "padding"):
        number = fields.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and not 0 <= number < size:
            raise GgufError(f"its {name}_token_id is {number}, and it has only {size} tokens. {_OTHER}")
        named[name] = number
    tokenizer.bos_token = _token(tokenizer, named["bos"])
    tokenizer.unk_token = _token(tokenizer, named["unknown"])
    tokenizer.eos_token = _token(tokenizer, named["eos"])
    # The end of a turn is known by being special, and the file may name another token as the end.
    control = [n for n, kind in enumerate(fields.get("tokenizer.ggml.token_type", [])) if kind == byte_level.CONTROL]
    tokenizer.extra_special_tokens = tokenizer.convert_ids_to_tokens(control)
    tokenizer.pad_token = None
    try:
        end_of_turn = end_of_turn_id(tokenizer, Prompt())
        opened = render(tokenizer, [{"role": "user", "content": "a"}], Prompt(), add_generation_prompt=True)
    except (ChatTemplateError, PromptError) as error:
        raise GgufError(f"its chat template cannot be used: {error}") from error
    tokenizer.eos_token = _token(tokenizer, end_of_turn)
    # What a template writes before the answer does not end the answer, whatever the file says.
    before = set(tokenizer(opened, add_special_tokens=False)["input_ids"]) | {named["bos"]}
    others = [named["eos"], named["eot"], *(tokenizer.get_vocab().get(token) for token in _TEXT_ENDS)]
    ends = [end_of_turn, *(number for number in others if number is not None and number not in before)]
    # A model that is trained with padding that ends turns never ends one: loading.load_tokenizer finds another.
    if named["padding"] not in {None, end_of_turn, *before}:
        tokenizer.pad_token = _token(tokenizer, named["padding"])
    return list(dict.fromkeys(ends))


def _token(tokenizer: PreTrainedTokenizerBase, number: int | None) -> str | None:
    return None if number is None else str(tokenizer.convert_ids_to_tokens(number))
