"""GGUF files as llama.cpp's converter writes them, of models that are small enough for a test."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


def write(
    path: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    cuts: str,
    *,
    architecture: str = "llama",
    quantised: gguf.GGMLQuantizationType | None = None,
    without: str = "",
    weights: dict[str, np.ndarray] | None = None,
    **fields: Any,
) -> Path:
    """Write a model and its byte-level tokenizer.

    Args:
        cuts: how llama.cpp calls the way in which this tokenizer cuts text.
        quantised: how matrices are packed; in 32 bits where it is None.
        without: a weight that is left out.
        weights: further ones.
        fields: other values of `tokenizer.…`, with dots written as two underscores; None for none.
    """
    config, vocabulary = model.config, json.loads(tokenizer.backend_tokenizer.to_str())
    merges = [" ".join(merge) for merge in vocabulary["model"]["merges"]]
    special = {token["id"] for token in vocabulary["added_tokens"]}
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_string("general.license", "apache-2.0")
    told: dict[str, Any] = {
        "ggml.model": "gpt2",
        "ggml.pre": cuts,
        "ggml.tokens": tokens,
        "ggml.token_type": [3 if number in special else 1 for number in range(len(tokens))],
        "ggml.merges": merges,
        "ggml.bos_token_id": tokenizer.bos_token_id,
        "ggml.eos_token_id": tokenizer.eos_token_id,
        "ggml.padding_token_id": tokenizer.pad_token_id,
        "chat_template": tokenizer.chat_template,
    } | {name.replace("__", "."): value for name, value in fields.items()}
    for name, value in told.items():
        key = name if name.startswith("llama.") else f"tokenizer.{name}"
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    for name, values in {**_weights(model), **(weights or {})}.items():
        if name == without:
            continue
        if quantised is not None and values.ndim == 2:
            writer.add_tensor(name, gguf.quantize(values, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    found = {}
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        projection = name.split(".")[-2]
        if projection in heads:
            # llama.cpp rotates neighbours, transformers the two halves of a head.
            halves = values.reshape(heads[projection], 2, -1, values.shape[1])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        found[names.get_name(name, try_suffixes=(".weight",))] = np.ascontiguousarray(values)
    return found
