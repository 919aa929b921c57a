"""Completions by a server with OpenAI's completions API that returns token ids, as vLLM does.

    vllm serve BASE_MODEL --port 8001 --enable-lora --max-lora-rank 32  # in a separate environment
    make report PROFILE=paper ENGINE_URL=http://127.0.0.1:8001/v1

The server gets the token ids that the model in this process would get, and returns ids, which are scored like any.
It draws other random numbers, so its samples differ; likeliest tokens are the same except for rounding. How they are
drawn is all in the request: nothing is left to a server's own defaults. Base model and adapters are on one server: it
is told the folder of an adapter that it does not have yet, and before any of them is believed, it has to rate a few
reference answers as the model here does (`lib.model.references`).
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
from transformers import GenerationConfig

from lib.config import Config
from lib.model import loading, references
from lib.model.generation import Decoding
from lib.model.references import Reference

#: How long a server that is busy with others' prompts may take to answer.
SILENCE_SECONDS = 600.0
#: What changes nothing, said so that no default of a server's does: of vLLM's with the base model's
#: generation_config.json, and of llama.cpp's.
NEUTRAL = {
    "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.0,
    "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
#: Requests sent at a time; those beyond the server's batch wait there.
AT_A_TIME = 64


class ServerError(ValueError):
    """The server cannot complete for this run; the message says why, and what to do."""


class SilentServerError(ServerError):
    """The server does not say how likely the tokens of a prompt are."""


@dataclass(frozen=True)
class Served:
    """A model on a server."""

    url: str
    """Up to and including `/v1`."""
    name: str
    """What the server calls it."""
    generation_config: GenerationConfig
    """The base model's own defaults; the server's are not used."""


def connect(url: str, config: Config) -> Served:
    """The model that is evaluated, on the server: the iteration's adapter, or the base.

    An adapter's name there includes its fingerprint, so one that was trained again is never taken for the old one.

    Raises:
        ServerError: if the server cannot be reached, serves another base model, has too little room for the prompts,
            cannot load the adapter, or does not rate the reference answers as the model here does.
    """
    listed = _asked(url, "models").get("data")
    if not listed:
        raise ServerError(f"ENGINE_URL={url}: what answers there is not an OpenAI-compatible server, or has no model")
    found = next((entry for entry in listed if entry["id"] == os.environ.get("ENGINE_BASE")), None)
    if "ENGINE_BASE" in os.environ and not found:
        names = ", ".join(entry["id"] for entry in listed)
        raise ServerError(f"ENGINE_BASE={os.environ['ENGINE_BASE']}: the server at {url} has only {names}")
    base = found or next(entry for entry in listed if not entry.get("parent"))
    folder = loading.base_model_folder(config.model)
    wanted = {config.model.base_model, config.model.base_model.partition("@")[0], str(folder.resolve())}
    if not found and not wanted & {base["id"], base.get("root")}:
        raise ServerError(
            f"the server at {url} has the base model {base.get('root') or base['id']}, and this run's is "
            f"{config.model.base_model}: serve that one, or set ENGINE_BASE={base['id']} if it is the same"
        )
    room, needed = base.get("max_model_len"), config.prompt.max_evaluation_tokens
    if room is not None and room < needed:
        raise ServerError(
            f"the server at {url} reads and writes at most {room:,} tokens in all, and this evaluation up to "
            f"{needed:,}: start it with --max-model-len {needed}, or lower prompt.max_evaluation_tokens"
        )
    name, adapter = str(base["id"]), None
    if config.has_adapter:
        adapter = config.paths.adapter(config.name)
        name = f"{config.run}-{config.name}-{loading.fingerprint(adapter)[:12]}"
        if name not in {entry["id"] for entry in listed}:
            _load(url, name, adapter)
    known = references.measure(config, adapter).answers
    if why := recognise(url, name, known, "adapter" if adapter else "base"):
        raise ServerError(
            f"the server at {url} cannot be believed: {name} there {why}. Serve the base model and the adapter of this "
            "run, in 16 bits or as they were trained, with a server that applies the adapter whole"
        )
    return Served(url, name, loading.load_generation_config(config.model))


def _load(url: str, name: str, adapter: Path) -> None:
    try:
        _asked(url, "load_lora_adapter", {"lora_name": name, "lora_path": str(adapter.resolve())})
    except ServerError as error:
        raise ServerError(
            f"{error}. It has to load the adapter in {adapter}: start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, "
            f"--enable-lora and a --max-lora-rank that is high enough, where it sees that folder; or start it with "
            f"--lora-modules {name}={adapter}"
        ) from error


def recognise(url: str, name: str, known: Sequence[Reference], target: Literal["base", "adapter"]) -> str:
    """Why what a server has under this name is not the model that is meant; empty where it is.

    Raises:
        SilentServerError: if it does not tell the log-probabilities by which it could be known.
        ServerError: if it cannot be asked.
    """
    said = []
    for one in known:
        asked = {"model": name, "prompt": [*one.prompt, *one.answer], "max_tokens": 1, "prompt_logprobs": 0} | NEUTRAL
        choice = _asked(url, "completions", asked)["choices"][0]
        # vLLM: for each token of the prompt what it knows of it and of likelier ones, by id; nothing of the first.
        told = (choice.get("prompt_logprobs") or [])[-len(one.answer) :]
        if len(told) < len(one.answer):
            raise SilentServerError(
                f"the server at {url} does not say how likely the tokens of a prompt are (prompt_logprobs), by which "
                "its models are known: vLLM does"
            )
        said.append([place[str(token)]["logprob"] for place, token in zip(told, one.answer, strict=True)])
    return references.judge(said, known, target)


def seed_of(seed: int, row: int) -> int:
    """The seed of a row's completions: 31 bits, all of which depend on both.

    Some servers keep 32 bits of a seed alone, and run i is given this one plus i.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {row}".encode()).digest()[:4]) >> 1


def sampling(decoding: Decoding) -> dict[str, Any]:
    """How tokens are chosen and where they end, in the words of vLLM and of llama.cpp's server."""
    return NEUTRAL | {
        "max_tokens": decoding.max_new_tokens,
        "temperature": 0.0 if decoding.greedy else decoding.temperature,
        "top_p": decoding.top_p,
        # The word of both for all tokens is -1.
        "top_k": decoding.top_k or -1,
        "stop_token_ids": list(decoding.end_ids),
    }


def complete(
    model: Served,
    rows: Sequence[int],
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    runs: int,
    seed: int,
) -> list[list[list[int]]]:
    """Complete a batch of prompts, as `generation.complete` does in this process.

    Raises:
        ServerError: if the server fails, or does not return token ids.
    """

    def one(row: int, prompt: Sequence[int]) -> list[list[int]]:
        asked = {
            "model": model.name,
            "prompt": list(prompt),
            "n": runs,
            # The server gives run i the seed plus i.
            "seed": seed_of(seed, row),
            **sampling(decoding),
            # Those ends are all: what the server itself takes for one is not added.
            "ignore_eos": True,
            "return_token_ids": True,
        }
        choices = sorted(_asked(model.url, "completions", asked)["choices"], key=lambda choice: choice["index"])
        if any(choice.get("token_ids") is None for choice in choices):
            raise ServerError(
                f"the server at {model.url} returns no token ids, which scoring needs: vLLM does from 0.10.2 on"
            )
        return [_without_end(choice["token_ids"], decoding.end_ids) for choice in choices]

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(one, rows, prompts))


def _without_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    return ids[:-1] if ids and ids[-1] in ends else ids


def _asked(url: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The server's answer to a GET, or with a body to a POST."""
    key = os.environ.get("ENGINE_KEY")
    try:
        answer = httpx.request(
            "POST" if body else "GET",
            f"{url.rstrip('/')}/{path}",
            json=body,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=5.0),
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerError(f"ENGINE_URL={url}: no answer ({error}); start the server first") from error
    if not answer.is_success:
        raise ServerError(f"the server at {url} answers {answer.status_code} to {path}: {answer.text[:300]}")
    # Loading an adapter is answered with plain text.
    return dict(answer.json()) if "json" in answer.headers.get("content-type", "") else {}
