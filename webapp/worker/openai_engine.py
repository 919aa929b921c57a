"""Any server that speaks OpenAI's chat completions: vLLM, llama.cpp's server, and others.

Where an adapter's folder has references (`lib.model.references`), the server has to answer them as the models do; it
then gets the tokens that the model in this process would get, and settings that leave nothing to its own defaults.
Another server builds its prompts itself.

The server batches, so there is no step here: each answer is read by a thread of its own, and a step is whatever has
come. The base model and the adapter are two names on that server (vLLM: `--enable-lora --lora-modules name=folder`).
"""

import contextlib
import http.client
import json
import logging
import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from wire.messages import Offered, Request, Seen, Target, Usage

from lib.model import served
from lib.paths import REFERENCES
from worker.asked import Adapter, adapter_of, decoding_of, encode
from worker.engine import Added, EngineAwayError, EngineError, EngineRefusalError, Step, is_address
from worker.text import TextStream

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.05
"""How long a step waits for something to come."""
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 120.0
"""A server that says nothing for so long, be it busy with others' prompts, has failed."""
MAX_LINE = 1 << 20
MAX_CONTEXT = 8_192
"""Tokens of a conversation with its answer, where the server does not tell its own limit."""


class ServerError(Exception):
    """The server did not do as asked; the message is for the log."""


class OpenAIEngine:
    """Answers that a server decodes.

    Args:
        url: up to and with `/v1`.
        names: what the server calls the base model and, if it has it, the adapter.
        adapter: what is known of the models there; None where the server is to build the prompts.
        context: how many tokens they read and write in all.
    """

    kind = "openai"
    # Only the server knows what it loaded; its name for that is in `model`.
    adapter_sha: str | None = None

    def __init__(
        self,
        url: str,
        names: dict[Target, str],
        key: str | None = None,
        adapter: Adapter | None = None,
        context: int = MAX_CONTEXT,
    ) -> None:
        self.model = " + ".join(dict.fromkeys(names.values()))
        self._adapter, self._context = adapter, context
        self._url, self._names, self._key = url.rstrip("/"), names, key
        self._news: queue.SimpleQueue[tuple[_Answer, Step]] = queue.SimpleQueue()
        self._answers: dict[str, _Answer] = {}

    def add(self, request: Request, ids: Sequence[int], text: str) -> Added:
        name = self._names.get(request.target)
        if name is None:
            raise EngineRefusalError("no_adapter", "the server has only a base model")
        if request.adapter:
            raise EngineRefusalError("no_adapter", f"the server has no adapter {request.adapter}")
        answer = _Answer(request.gid, self._news)
        if self._adapter is None:
            body, written, added = body_of(request, name, text, self._context), None, Added(prompt_tokens=None)
        else:
            body, written, added = tokens_of(request, name, self._adapter, self._context, ids, text)
        self._answers[request.gid] = answer
        threading.Thread(target=answer.read, args=(self._url, self._key, body, written), daemon=True).start()
        return added

    def step(self) -> list[Step]:
        steps = []
        try:
            news = self._news.get(timeout=WAIT_SECONDS)
            while True:
                answer, step = news
                # One that was dropped may still have had something under way.
                if self._answers.get(step.gid) is answer:
                    steps.append(step)
                    if step.finish:
                        del self._answers[step.gid]
                news = self._news.get_nowait()
        except queue.Empty:
            return steps

    def offered(self) -> tuple[Offered, ...]:
        return ()

    def look(self, request: Request, text: str, ended: bool) -> Seen:
        raise EngineRefusalError("no_look", "the server builds its prompts itself")

    def remove(self, gid: str) -> None:
        if answer := self._answers.pop(gid, None):
            answer.break_off()

    def reset(self) -> None:
        for gid in list(self._answers):
            self.remove(gid)

    def close(self) -> None:
        self.reset()


class _Answer:
    """One streamed response, and the thread that reads it."""

    def __init__(self, gid: str, news: "queue.SimpleQueue[tuple[_Answer, Step]]") -> None:
        self._gid, self._news = gid, news
        self._socket: socket.socket | None = None
        self._dropped = False

    def read(self, url: str, key: str | None, body: dict[str, Any], written: TextStream | None) -> None:
        connection = None
        try:
            connection = connect(url)
            # The connection forgets its socket where the server is to close it.
            self._socket = connection.sock
            if self._dropped:
                return
            for step in steps_of(
                self._gid, chunks(connection, url, key, body), written, body.get("stop_token_ids", ())
            ):
                self._news.put((self, step))
        except (ServerError, OSError, http.client.HTTPException) as error:
            if not self._dropped:
                log.warning(
                    "the model's server at %s: %s", url, error if isinstance(error, ServerError) else repr(error)
                )
            self._news.put((self, Step(self._gid, finish="error", reason="server")))
        finally:
            if connection:
                connection.close()

    def break_off(self) -> None:
        """End the thread, and with it the server's work."""
        self._dropped = True
        if self._socket:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def load_engine(
    url: str, base: str | None, adapter: str | None, key: str | None = None, folder: Path | None = None
) -> OpenAIEngine:
    """Ask the server what it has.

    Args:
        base: its name for the base model; None: the first that it lists.
        adapter: its name for the adapter; None: the second that it lists, if it lists one.
        folder: of the adapter that it should have; its references are asked for, if there are any.

    Raises:
        EngineError: if it cannot be reached, has no such model, or has others than those of the folder.
    """
    if not is_address(url):
        raise EngineError(f"ENGINE_URL={url}: expected http://host:port/v1")
    try:
        connection = connect(url)
        connection.request("GET", f"{urlsplit(url).path.rstrip('/')}/models", headers=_headers(key))
        response = connection.getresponse()
        text = response.read(MAX_LINE)
        connection.close()
        if response.status != 200:
            raise EngineError(
                f"ENGINE_URL={url}: the list of its models answers {response.status} {response.reason}; is the path "
                "right (most servers want /v1), and ENGINE_KEY?"
            )
        models = json.loads(text)["data"]
        listed = [str(model["id"]) for model in models]
    except (OSError, http.client.HTTPException) as error:
        raise EngineAwayError(f"ENGINE_URL={url}: no answer ({error}); start the server first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"ENGINE_URL={url}: this is not an OpenAI-compatible server ({error!r})") from error
    for variable, name in (("ENGINE_BASE", base), ("ENGINE_ADAPTER", adapter)):
        if name is not None and name not in listed:
            raise EngineError(f"{variable}={name}: the server at {url} has only {', '.join(listed)}")
    if not listed:
        raise EngineError(f"ENGINE_URL={url}: the server lists no model")
    base = base or listed[0]
    adapter = adapter or next((name for name in listed if name != base), None)
    names: dict[Target, str] = {"base": base}
    if adapter is not None:
        names["adapter"] = adapter
    known = _known(url, names, folder)
    told = next((model.get("max_model_len") for model in models if model["id"] == base), None)
    return OpenAIEngine(url, names, key, known, min(MAX_CONTEXT, told or MAX_CONTEXT))


def _known(url: str, names: dict[Target, str], folder: Path | None) -> Adapter | None:
    """What is known of the models there; None where nothing says that they are those of the folder."""
    known = adapter_of(folder) if folder else None
    if known is None:
        log.warning("what the server at %s has is not checked: there is no %s in %s", url, REFERENCES, folder)
        return None
    cure = (
        f"serve the adapter in {folder} with its base model, and name them with ENGINE_ADAPTER and ENGINE_BASE; or set "
        "ADAPTER to the folder of what is served, or to none to ask it unchecked"
    )
    try:
        for target, name in names.items():
            if why := served.recognise(url, name, known.references.answers, target):
                raise EngineError(f"ENGINE_URL={url}: {name} there {why}; {cure}")
    except served.SilentServerError as error:
        log.warning("not checked: %s", error)
        return None
    except served.ServerError as error:
        raise EngineError(f"{error}; {cure}") from error
    return known


def tokens_of(
    request: Request, model: str, adapter: Adapter, context: int, ids: Sequence[int], text: str
) -> tuple[dict[str, Any], TextStream, Added]:
    """What is asked of a server that is known, the answer's text so far, and what became of the prompt.

    The answer is as long as fits, at least half of the context where that much was asked for.
    """
    settings = request.settings
    fitting = replace(settings, max_new_tokens=min(settings.max_new_tokens, context // 2))
    found = encode(adapter.tokenizer, adapter.prompt, replace(request, settings=fitting), context)
    prompt = [*found.prompt, *found.given]
    own = adapter.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    # Other engines, that build no prompts here, leave text without tokens.
    written = list(ids or own)
    decoding = decoding_of(adapter.references.decoding, settings)
    limit = min(settings.max_new_tokens, context - len(prompt))
    body = served.sampling(replace(decoding, max_new_tokens=max(1, limit - len(written)))) | {
        "model": model,
        "prompt": [*prompt, *written],
        "seed": request.seed,
        "stream": True,
        "return_token_ids": True,
        # Those ends are all: what the server itself takes for one is not added.
        "ignore_eos": True,
    }
    return body, TextStream(adapter.tokenizer, written, before=found.given), Added(len(prompt), found.left_out)


def body_of(request: Request, model: str, text: str, context: int) -> dict[str, Any]:
    """What is asked of a server that is not known; at most half of its context is for the answer.

    An answer that has some text already is continued (vLLM's `continue_final_message`, which llama.cpp does by
    itself); servers do not tell tokens, so such an answer may get longer than `max_new_tokens`.
    """
    settings = request.settings
    messages = [{"role": turn.role, "content": turn.content} for turn in request.turns]
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": min(settings.max_new_tokens, context // 2),
        "seed": request.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if settings.greedy:
        body["temperature"] = 0
    else:
        chosen = {name: getattr(settings, name) for name in ("temperature", "top_p", "top_k")}
        body |= {name: value for name, value in chosen.items() if value is not None}
        if body.get("top_k") == 0:
            # The word of vLLM and of llama.cpp for all tokens; left out, it would be the server's own default.
            body["top_k"] = -1
    if text := request.given + text:
        messages.append({"role": "assistant", "content": text})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def connect(url: str) -> http.client.HTTPConnection:
    """A connection to the server.

    Raises:
        OSError: if there is none.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=CONNECT_SECONDS)
    connection.connect()
    connection.sock.settimeout(SILENCE_SECONDS)
    # A token is a small packet: it must not wait for the next.
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def chunks(
    connection: http.client.HTTPConnection, url: str, key: str | None, body: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The server's stream, event by event.

    Raises:
        ServerError: if it answers with an error, or with no stream.
    """
    asked = "completions" if "prompt" in body else "chat/completions"
    path = f"{urlsplit(url).path.rstrip('/')}/{asked}"
    connection.request("POST", path, json.dumps(body).encode(), _headers(key) | {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise ServerError(f"The model's server answers {response.status}: {_reason(response.read(MAX_LINE))}")
    while line := response.readline(MAX_LINE):
        field, _, value = line.strip().partition(b":")
        if field != b"data":
            continue
        if value.strip() == b"[DONE]":
            return
        try:
            chunk = json.loads(value)
        except ValueError as error:
            raise ServerError("The model's server sent something that is not JSON.") from error
        if "error" in chunk:
            raise ServerError(f"The model's server failed: {_reason(value)}")
        yield chunk
    raise ServerError("The model's server broke off.")


def steps_of(
    gid: str, stream: Iterator[dict[str, Any]], written: TextStream | None = None, ends: Sequence[int] = ()
) -> Iterator[Step]:
    """A server's stream as steps; the last one has the finish, and the server's count of tokens if it gave one.

    Args:
        written: turns tokens into text, where the server was given tokens and gives some.
        ends: tokens that end an answer, and are none of it.
    """
    finish: Literal["stop", "length"] | None = None
    usage = None
    for chunk in stream:
        for choice in chunk.get("choices") or []:
            if written is not None:
                for token in choice.get("token_ids") or []:
                    if token not in ends:
                        yield Step(gid, written.add(token), (token,))
            elif text := (choice.get("delta") or {}).get("content"):
                yield Step(gid, text)
            if reason := choice.get("finish_reason"):
                finish = "length" if reason == "length" else "stop"
        if counted := chunk.get("usage"):
            usage = Usage(
                prompt_tokens=counted.get("prompt_tokens"), completion_tokens=counted.get("completion_tokens") or 0
            )
    if finish is None:
        raise ServerError("The model's server ended without a reason.")
    rest = "" if written is None else written.rest()
    if written is not None and rest is None:
        yield Step(gid, written.whole(), finish=finish, replaces=True)
    else:
        yield Step(gid, rest or "", finish=finish, usage=usage)


def _headers(key: str | None) -> dict[str, str]:
    return {"Accept": "text/event-stream, application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})


def _reason(text: bytes) -> str:
    """The sentence in an error's body, whichever way the server wraps it."""
    try:
        found = json.loads(text)
        found = found.get("error", found)
        found = found.get("message", found) if isinstance(found, dict) else found
    except (ValueError, AttributeError):
        found = text.decode(errors="replace")
    return f"{found}"[:300]
