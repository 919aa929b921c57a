"""What a request asks for, as tokens: the same prompts and the same settings, whichever engine answers."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from wire.messages import Request
from wire.messages import Settings as Asked

from lib.config import Prompt
from lib.model import prompts, references
from lib.model.generation import Decoding
from lib.model.references import References
from lib.paths import ADAPTER_RECORD, command_for
from worker.engine import EngineError, EngineRefusalError

#: How tokens are drawn where the base model says nothing (SmolLM2 and most GGUF files). Row 8's adapter of the run
#: smollm2_rows gave 90 answers to this project's prompts: by the bare probabilities 20 ended within 96 tokens, 22 said
#: three words in a row twice, and 81 % of their words were words of the corpus; so drawn, 41, 39 and 90 %; with 0.6 and
#: 0.9, 38, 62 and 96 %.
DRAWN = {"temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True)
class Encoded:
    """A prompt, and what its answer begins with."""

    prompt: list[int]
    left_out: int
    """Turns that found no room."""
    given: list[int]


@dataclass(frozen=True)
class Adapter:
    """What an adapter's folder tells of it, with no weights loaded."""

    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt
    references: References


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, request: Request, context: int) -> Encoded:
    """A request as tokens; the oldest turns are left out where it does not fit.

    Args:
        context: how many tokens the model reads and writes in all.

    Raises:
        EngineRefusalError: if it does not fit, or if the chat template has no place for its system prompt.
    """
    # As the texts of people: what looks like a special token in it stays text.
    own = tokenizer(request.given, add_special_tokens=False, split_special_tokens=True)
    given = list(own["input_ids"])
    room = context - request.settings.max_new_tokens - len(given)
    if room < 1:
        raise EngineRefusalError(
            "no_room", f"max_new_tokens={request.settings.max_new_tokens} of {context} tokens in all"
        )
    system = [{"role": turn.role, "content": turn.content} for turn in request.system]
    messages = [{"role": turn.role, "content": turn.content} for turn in request.said]
    if system:
        _require_system(tokenizer, prompt, context)
    for left_out in range(0, len(messages), 2):
        try:
            ids, cut = prompts.encode_prompt(tokenizer, [*system, *messages[left_out:]], prompt, room)
        except prompts.PromptError:
            continue
        if not cut:
            return Encoded(ids, left_out, given)
    raise EngineRefusalError("too_long", f"{room} tokens are left for the question")


def _require_system(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, context: int) -> None:
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    try:
        prompts.encode_prompt(tokenizer, turns, prompt, context)
    except (prompts.PromptError, prompts.ChatTemplateError) as error:
        raise EngineRefusalError("no_system", str(error)) from error


def decoding_of(defaults: Decoding, settings: Asked) -> Decoding:
    """How a request is decoded: as asked, else by the base model's own defaults, else by `DRAWN`."""
    own = {} if (defaults.temperature, defaults.top_p) != (1, 1) else DRAWN
    chosen = {name: getattr(settings, name) for name in ("temperature", "top_p", "top_k")}
    return replace(
        defaults,
        max_new_tokens=settings.max_new_tokens,
        greedy=settings.greedy,
        **own | {name: value for name, value in chosen.items() if value is not None},
    )


def adapter_of(folder: Path) -> Adapter | None:
    """What a folder tells of its adapter; None where there is no adapter, or one without references.

    Raises:
        EngineError: if its tokenizer cannot be loaded, or if its record is not what training writes.
    """
    known = references.read(folder)
    if known is None:
        return None
    prompt = Prompt(**read_adapter_record(folder)["prompt"])
    try:
        return Adapter(AutoTokenizer.from_pretrained(folder), prompt, known)
    # What is damaged ends in an error of any kind.
    except Exception as error:
        raise EngineError(
            f"the tokenizer in {folder} cannot be loaded ({error}); copy the whole folder again"
        ) from error


def read_adapter_record(adapter: Path) -> dict[str, Any]:
    """What an adapter's record says of its training.

    Raises:
        EngineError: if it says nothing.
    """
    path = adapter / ADAPTER_RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        Prompt(**record["prompt"])
        if not all(isinstance(record[name], str) for name in ("base_model", "chat_template_sha256")):
            raise TypeError("its base_model or chat_template_sha256 is not text")
    except FileNotFoundError:
        raise EngineError(
            f"no {ADAPTER_RECORD} in {adapter}: run `{command_for(adapter)}` first, or set ADAPTER to an adapter's "
            "folder"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{path} is not what `make report` writes ({error}); remove it and run `{command_for(adapter)}`"
        ) from error
    return record
