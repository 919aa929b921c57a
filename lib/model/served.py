"""Completions by a server with OpenAI's completions API that returns token ids, as vLLM does.

    vllm serve BASE_MODEL --port 8001 --enable-lora --max-lora-rank 32  # in a separate environment
    make report PROFILE=paper ENGINE_URL=http://127.0.0.1:8001/v1

The server gets the token ids that the model in this process would get, and returns ids, which are scored like any.
It draws other random numbers, so its samples differ; likeliest tokens are the same except for rounding. Base model and
adapters are on one server: it is told the folder of an adapter that it does not have yet.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from transformers import GenerationConfig

from lib.config import Config
from lib.model import loading
from lib.model.generation import Decoding

#: How long a server that is busy with others' prompts may take to answer.
SILENCE_SECONDS = 600.0
#: Requests sent at a time; those beyond the server's batch wait there.
AT_A_TIME = 64


class ServerError(ValueError):
    """The server cannot complete for this run; the message says why, and what to do."""


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
        ServerError: if the server cannot be reached, serves another base model, or cannot load the adapter.
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
    name = str(base["id"])
    if config.has_adapter:
        adapter = config.paths.adapter(config.name)
        name = f"{config.run}-{config.name}-{loading.fingerprint(adapter)[:12]}"
        if name not in {entry["id"] for entry in listed}:
            _load(url, name, adapter)
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
            "seed": (seed << 40) + (row << 8),
            "max_tokens": decoding.max_new_tokens,
            "temperature": 0.0 if decoding.greedy else decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": decoding.top_k or -1,
            "stop_token_ids": list(decoding.end_ids),
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
