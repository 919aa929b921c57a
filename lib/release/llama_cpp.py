"""The merged model for llama.cpp and Ollama: a GGUF file, and a Modelfile whose prompts are those of the training.

llama.cpp's own converter, from the user's checkout, writes the file. It is then read back: every weight and every token
is compared with the merged model's, and its ratings of test prompts with the adapter's.
"""

import argparse
import importlib
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lib import lock, paths
from lib.config import Config, Model, run_name
from lib.evaluation import completions
from lib.model import byte_level, loading
from lib.model.prompts import Messages, end_of_turn_id, render
from lib.release import agreement, finished, merging
from lib.release.finished import Finished
from lib.storage import whole, write_json

CONVERTER = "convert_hf_to_gguf.py"
# As in lib.model.prompts: placeholders for texts in a rendered prompt, which no template contains.
_SYSTEM, _USER, _ANSWER, _NEXT = ("\ue000" + letter for letter in "suan")


class GgufError(ValueError):
    """The GGUF file cannot be made, or it is not the model; the message says why, and what to do."""


def checkout(folder: str) -> Path:
    """The user's folder of llama.cpp, with the converter in it.

    Raises:
        GgufError: if none was named, or if it is not a checkout.
    """
    cure = "get one (git clone https://github.com/ggml-org/llama.cpp) and name its folder with LLAMA_CPP"
    if not folder:
        raise GgufError(f"LLAMA_CPP names no folder, and llama.cpp's own converter writes the file: {cure}")
    path = paths.expanded(folder)
    if not (path / CONVERTER).is_file() or not (path / "gguf-py").is_dir():
        raise GgufError(f"LLAMA_CPP={folder} is not a checkout of llama.cpp with {CONVERTER} and gguf-py: {cure}")
    return path.absolute()


def convert(run: Finished, llama_cpp: Path) -> dict[str, Any]:
    """Write model.gguf and Modelfile of a run's merged model, which is made first where it is not there.

    Returns:
        What was measured: an `agreement.Agreement` as a dictionary, and counts of weights and tokens.

    Raises:
        GgufError: if the converter fails, or if the file is not the merged model.
        agreement.AgreementError: if the file does not rate test prompts as the adapter does. Either removes the folder.
    """
    config, files = run.config, run.config.paths
    if not run.merged:
        merging.merge(run)
    shutil.rmtree(files.gguf, ignore_errors=True)
    files.gguf_record.unlink(missing_ok=True)
    tokenizer, model = loading.load_tokenizer(config.model), loading.load_base(Model(str(files.merged)))
    try:
        with whole(files.gguf) as temporary:
            temporary.mkdir()
            _run_converter(llama_cpp, files.merged, temporary / "model.gguf")
            (temporary / "Modelfile").write_text(modelfile(tokenizer, model, config), encoding="utf-8")
        counts = load(files.gguf / "model.gguf", llama_cpp, model, tokenizer)
        examples = agreement.drawn(config, tokenizer)
        found = agreement.between(
            agreement.of_adapter(config, examples), agreement.ratings(model, examples), len(examples)
        )
        agreement.require(found, "the GGUF file")
    except BaseException:
        shutil.rmtree(files.gguf, ignore_errors=True)
        raise
    measured = {"adapter": run.adapter, "dtype": "bfloat16", **counts, **asdict(found)}
    write_json(files.gguf_record, measured)
    return measured


def _run_converter(llama_cpp: Path, model: Path, outfile: Path) -> None:
    command = [sys.executable, "-m", "lib.release.gguf_converter", str(llama_cpp), str(model), str(outfile)]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    if done.returncode or not outfile.is_file():
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        why = said[-1] if said else f"it ended with {done.returncode}"
        if "NotImplementedError" in why:
            why += " (it does not know how this tokenizer cuts text into words; a newer llama.cpp may)"
        raise GgufError(f"llama.cpp's converter wrote no file from {model}: {why}")


def load(file: Path, llama_cpp: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Put the weights of a GGUF file into the model that it was made from, after all else in it was compared.

    Returns:
        `weights`: how many matrices and vectors; `changed`: how many of them differ in a number; `vocabulary`.

    Raises:
        GgufError: if a weight is missing, or if the file has another architecture or another vocabulary.
    """
    gguf = _gguf_package(llama_cpp)
    reader = gguf.GGUFReader(file)
    field = {
        name: value.contents() for name, value in reader.fields.items() if not name.startswith("tokenizer.ggml.merges")
    }
    _compare_settings(field, model, tokenizer)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    counts = {"weights": 0, "changed": 0, "vocabulary": len(field["tokenizer.ggml.tokens"])}
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        stored = tensors.get(names.get_name(name, try_suffixes=(".weight", ".bias")))
        if stored is None:
            if tied and name == "lm_head.weight":
                continue
            raise GgufError(f"the GGUF file has no {name}: convert it again, with a newer llama.cpp")
        values = np.asarray(gguf.quants.dequantize(stored.data, stored.tensor_type), dtype=np.float32)
        projection = name.split(".")[-2]
        if projection in heads:
            values = _as_transformers(values, heads[projection])
        found = torch.from_numpy(values.reshape(parameter.shape).copy()).to(parameter)
        counts["weights"] += 1
        counts["changed"] += not torch.equal(found, parameter.data)
        parameter.data.copy_(found)
    return counts


def _gguf_package(llama_cpp: Path) -> Any:
    """The package gguf of this checkout, which reads what its converter writes."""
    folder = str(llama_cpp / "gguf-py")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("gguf")
    finally:
        sys.path.remove(folder)


def _compare_settings(field: dict[str, Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    config = model.config
    if field.get("general.architecture") != "llama":
        raise GgufError(
            f"the GGUF file has the architecture {field.get('general.architecture')!r}: only Llama's can be compared"
        )
    rope = config.rope_parameters
    wanted = {
        "llama.block_count": config.num_hidden_layers,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": rope["rope_theta"],
        "tokenizer.ggml.pre": byte_level.cuts_of(tokenizer.backend_tokenizer),
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        # A token is stored as its bytes are written in the vocabulary.
        "tokenizer.ggml.tokens": tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))),
    }
    for name, value in wanted.items():
        told = field.get(name)
        if name == "tokenizer.ggml.tokens":
            # A model may have room for more tokens than there are.
            told = (told or [])[: len(value)]
        same = (
            abs(told - value) <= 1e-6 * abs(value) if isinstance(value, float) and told is not None else told == value
        )
        if not same:
            shown = "another vocabulary" if name == "tokenizer.ggml.tokens" else f"{name} = {told!r}, not {value!r}"
            raise GgufError(f"the GGUF file has {shown}: convert it again, with a newer llama.cpp")


def _as_transformers(weights: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates pairs of neighbours, transformers the halves of a head: undo its order."""
    rows, rest = weights.shape[0], weights.shape[1:]
    return weights.reshape(heads, rows // heads // 2, 2, *rest).swapaxes(1, 2).reshape(rows, *rest)


def modelfile(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, config: Config) -> str:
    """Ollama's description of the model: its file, its prompts, where answers end, and how tokens are drawn.

    Sampling is what the evaluation does; what Ollama adds by itself (a penalty on repetition) is switched off.
    """
    decoding = completions.decoding_of(config, model, end_of_turn_id(tokenizer, config.prompt))
    stops = tokenizer.convert_ids_to_tokens(list(decoding.end_ids))
    lines = [
        "# ollama create klepon -f Modelfile",
        "FROM ./model.gguf",
        f'TEMPLATE """{template(tokenizer, config)}"""',
        *(f'PARAMETER stop "{token}"' for token in stops),
        f"PARAMETER temperature {0 if decoding.greedy else decoding.temperature:g}",
        f"PARAMETER top_p {decoding.top_p:g}",
        f"PARAMETER top_k {decoding.top_k}",
        "PARAMETER repeat_penalty 1",
    ]
    return "\n".join(lines) + "\n"


def template(tokenizer: PreTrainedTokenizerBase, config: Config) -> str:
    """The chat template in Ollama's language (Go's), found by rendering conversations with placeholders.

    Ollama adds the beginning-of-text token itself, so the first one is left out. Unlike the chat template, its
    language cannot strip white space around what people write.

    Raises:
        GgufError: if the chat template writes a turn in more than one way, or with what Ollama's language cannot hold.
    """

    def rendered(*turns: tuple[str, str], opened: bool = True) -> str:
        messages: Messages = [{"role": role, "content": content} for role, content in turns]
        return render(tokenizer, messages, config.prompt, add_generation_prompt=opened)

    user, answer, following = ("user", _USER), ("assistant", _ANSWER), ("user", _NEXT)
    plain = re.split(f"({_USER}|{_ANSWER}|{_NEXT})", rendered(user, answer, following))
    with_system = re.split(f"({_SYSTEM}|{_USER})", rendered(("system", _SYSTEM), user))
    first = rendered(user).partition(_USER)
    if len(plain) != 7 or len(with_system) != 5:
        raise GgufError("the chat template does not write every message once and in order: no Modelfile can express it")
    head, after_user, after_answer, opened = plain[0], plain[2], plain[4], plain[6]
    system_head, after_system = with_system[0], with_system[2]
    closed = rendered(user, answer, opened=False).partition(_ANSWER)[2]
    turn = after_answer.removeprefix(closed)
    regular = (
        after_answer.startswith(closed)
        and after_user == opened == first[2]
        and head.endswith(turn)
        and after_system.endswith(turn)
    )
    if not regular:
        raise GgufError(
            "the chat template writes a turn differently at the beginning than later: no Modelfile can express it"
        )
    beginning = str(tokenizer.bos_token or "")
    more = beginning * (config.prompt.bos_tokens - 1)
    head, system_head = (more + text.removeprefix(beginning) for text in (head.removesuffix(turn), system_head))
    pieces = [head, system_head, after_system.removesuffix(turn), turn, after_user, closed]
    if any("{{" in piece or "}}" in piece or '"""' in piece for piece in pieces):
        raise GgufError("the chat template has braces or quotes that a Modelfile cannot contain")
    return (
        "{{ if .System }}" + system_head + "{{ .System }}" + after_system.removesuffix(turn)
        + "{{ else }}" + head + "{{ end }}"
        + "{{ range $i, $_ := .Messages }}"
        + '{{ if eq .Role "user" }}' + turn + "{{ .Content }}" + after_user
        + '{{ else if eq .Role "assistant" }}{{ .Content }}'
        # An answer that ends the conversation is to be continued.
        + "{{ if gt (len (slice $.Messages $i)) 1 }}" + closed + "{{ end }}"
        + "{{ end }}{{ end }}"
    )  # fmt: skip


def main() -> None:
    """Write the GGUF file and the Modelfile of a run. `make gguf` calls this."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--llama-cpp", default="")
    given = parser.parse_args()
    try:
        folder = checkout(given.llama_cpp)
        with lock.held(paths.RunPaths(run_name(given.run))):
            run = finished.read(given.run)
            found = convert(run, folder)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    shown = run.config.paths.gguf
    print(
        f"The GGUF file: {shown.relative_to(paths.ROOT) / 'model.gguf'}\n"
        f"Read back, {found['weights'] - found['changed']} of its {found['weights']} weights and all of its "
        f"{found['vocabulary']} tokens are the merged model's.\n"
        f"On {found['tokens']} tokens of {found['prompts']} reference answers it differs from the adapter by "
        f"{found['log_prob_difference']:.4f} nats and has the same likeliest token at {found['equal_greedy']:.1%}.\n"
        f"With Ollama: cd {shown.relative_to(paths.ROOT)} && ollama create klepon -f Modelfile"
    )


if __name__ == "__main__":
    main()
