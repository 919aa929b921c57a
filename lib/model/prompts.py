"""From a row of the corpus to token ids, and the only place where that happens: training, evaluation and chat call it.

The seven steps of the paper's Table 1: row -> ShareGPT turns -> chat format -> token ids -> truncation -> loss mask ->
what is trained. The chat format is the tokenizer's own chat template. What people wrote is tokenized separately
from the template, so a text such as `<|eot_id|>` inside a prompt stays text and cannot end a turn.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from lib.config import Prompt

#: Llama 3's format with the system turn of Llama 3.1 and 3.2, for tokenizers that this project makes itself.
LLAMA3_CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set ns.system = messages[0]['content'] | trim -%}
{%- set messages = messages[1:] -%}
{%- endif -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' -}}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' + (date_string or '26 July 2024') + '\\n\\n' -}}
{{- ns.system + '<|eot_id|>' -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
{{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""

# Private-use characters: placeholders for contents while the template is rendered, which no template contains.
_PLACE = "\ue000{}\ue001"
_PLACES = re.compile("\ue000(\\d+)\ue001")

Messages = list[dict[str, str]]


class PromptError(ValueError):
    """Messages that cannot be encoded; the message says why."""


class ChatTemplateError(ValueError):
    """A chat template that fails on messages of any length; the message says how, and what to use instead."""


@dataclass(frozen=True)
class Example:
    """One prompt-completion pair, ready to train on."""

    input_ids: list[int]
    loss_mask: list[int]
    """1 where the token is trained (the completion and its end of turn), 0 on the prompt; as long as input_ids."""
    prompt_cut: bool
    answer_cut: bool
    """A cut answer has no end-of-turn token: the text did not end there."""

    @property
    def truncated(self) -> bool:
        """Something was cut."""
        return self.prompt_cut or self.answer_cut


#: ShareGPT's names of the roles.
_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def asked(rows: pd.DataFrame) -> list[Messages]:
    """What is said before the completion of each row of a corpus, up to the user's text that asks for it.

    Args:
        rows: with `input`, and with `turns` where rows may be conversations (`lib.corpus.selection.select`).
    """
    turns = rows["turns"] if "turns" in rows else repeat(None)
    return [
        json.loads(before) if isinstance(before, str) else [{"role": "user", "content": text}]
        for text, before in zip(rows["input"], turns, strict=False)
    ]


def to_sharegpt(prompt: str | Messages, completion: str) -> dict[str, Any]:
    """Table 1, step 2: a row as ShareGPT turns.

    Args:
        prompt: what the user says, or all that is said before the completion.
    """
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    names = {role: name for name, role in _ROLES.items()}
    turns = [*before, {"role": "assistant", "content": completion}]
    return {"conversations": [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]}


def to_messages(sharegpt: dict[str, Any]) -> Messages:
    """ShareGPT turns as the messages that chat templates take."""
    return [{"role": _ROLES[turn["from"]], "content": turn["value"]} for turn in sharegpt["conversations"]]


def conversation(prompt: Messages, instruction: str = "", shown: Sequence[tuple[str, str]] = ()) -> Messages:
    """The messages that ask a model to complete one prompt.

    Args:
        prompt: of `asked`.
        instruction: precedes the last text, in the same turn.
        shown: prompts with their completions that stand before it, as earlier turns.
    """
    *before, last = prompt
    turns = [turn for row in shown for turn in to_messages(to_sharegpt(*row))]
    system = [turn for turn in before if turn["role"] == "system"]
    text = f"{instruction}\n\n{last['content']}" if instruction else last["content"]
    return [*system, *turns, *before[len(system) :], last | {"content": text}]


def earlier(prompt: Messages) -> int:
    """How many turns of a row stand before the one that asks for its completion, that of the system not counted."""
    return sum(turn["role"] != "system" for turn in prompt) - 1


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, settings: Prompt, **options: Any) -> str:
    """Table 1, step 3: the messages in the chat format, as one string, to look at.

    Raises:
        ChatTemplateError: if the chat template fails on them.
    """
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, date_string=settings.date, **options)
    # A template is a program, and may fail in any way; many refuse what they were not written for.
    except Exception as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ChatTemplateError(
            f"the base model's chat template fails on turns of {roles} ({type(error).__name__}: {error}); use a base "
            "model whose chat template takes them, or mend its chat_template.jinja"
        ) from error


def chat_template_hash(tokenizer: PreTrainedTokenizerBase, settings: Prompt) -> str:
    """SHA-256 over everything that decides how messages become text. An adapter carries it, and chat compares it."""
    text = f"{tokenizer.chat_template}\0{settings.date}\0{settings.bos_tokens}"
    return hashlib.sha256(text.encode()).hexdigest()


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, settings: Prompt, max_tokens: int, earlier: int = 0
) -> tuple[list[int], bool]:
    """Token ids of a conversation with the assistant's turn opened, and whether it had to be cut to `max_tokens`.

    Only the end of the last user's text is ever cut, never the template around it.

    Args:
        earlier: how many of the turns before that text may be left out first, a question with its answer at a time.

    Raises:
        PromptError: if the conversation does not fit even without that text.
    """
    pieces = _pieces(tokenizer, messages, settings, add_generation_prompt=True)
    left_out = 0
    while left_out < earlier and _length(pieces) > max_tokens:
        left_out += 2
        kept = [*messages[: -1 - earlier], *messages[len(messages) - 1 - earlier + left_out :]]
        pieces = _pieces(tokenizer, kept, settings, add_generation_prompt=True)
    cut = _cut_last_content(pieces, max_tokens)
    return [token for ids, _ in pieces for token in ids], cut or left_out > 0


def prompt_pieces(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, settings: Prompt
) -> list[tuple[list[int], bool]]:
    """A conversation with the assistant's turn opened, as (token ids, is somebody's text) in order: the ids are those
    of `encode_prompt` where nothing is cut.

    Raises:
        PromptError, ChatTemplateError: if it cannot be encoded.
    """
    return _pieces(tokenizer, messages, settings, add_generation_prompt=True)


def encode_example(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, settings: Prompt, max_tokens: int, earlier: int = 0
) -> Example | None:
    """Table 1, steps 4 to 7, on messages that end with the assistant's completion.

    A text that is too long loses the end of its completion, but keeps `min_answer_tokens` of it; to keep them, the
    prompt is cut (`encode_prompt`). None if even that leaves no room: such an example is dropped.
    """
    completion, end_of_turn = _completion_ids(tokenizer, messages, settings)
    if not completion:
        return None
    answer = [*completion, end_of_turn]
    try:
        prompt, prompt_cut = encode_prompt(
            tokenizer, messages[:-1], settings, max_tokens - min(len(answer), settings.min_answer_tokens), earlier
        )
    except PromptError:
        return None
    kept = answer[: max_tokens - len(prompt)]
    return Example(
        input_ids=prompt + kept,
        loss_mask=[0] * len(prompt) + [1] * len(kept),
        prompt_cut=prompt_cut,
        answer_cut=len(kept) < len(answer),
    )


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase, settings: Prompt) -> int:
    """The token that ends the assistant's turn in this tokenizer's chat template."""
    return _completion_ids(
        tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], settings
    )[1]


def _completion_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages, settings: Prompt) -> tuple[list[int], int]:
    pieces = _pieces(tokenizer, messages, settings, add_generation_prompt=False)
    completion, closing = pieces[-2][0], pieces[-1][0]
    special = set(tokenizer.all_special_ids)
    end_of_turn = next((token for token in closing if token in special), None)
    if end_of_turn is None:
        raise PromptError(
            "the chat template closes the assistant's turn without a special token, so a model trained on it would "
            "never learn to stop; use a base model whose chat template has an end-of-turn token"
        )
    return completion, end_of_turn


def _pieces(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, settings: Prompt, add_generation_prompt: bool
) -> list[tuple[list[int], bool]]:
    """The rendered conversation as (token ids, is a message's text), template and texts alternating."""
    if tokenizer.chat_template is None:
        raise PromptError("the base model's tokenizer has no chat template; use an instruct model, or set one")
    held = [message | {"content": _PLACE.format(n)} for n, message in enumerate(messages)]
    rendered = render(tokenizer, held, settings, add_generation_prompt=add_generation_prompt)
    parts = _PLACES.split(rendered)
    if [int(n) for n in parts[1::2]] != list(range(len(messages))):
        raise PromptError(f"the chat template does not write every message once and in order: {messages!r:.200}")
    pieces = []
    for position, part in enumerate(parts):
        is_text = position % 2 == 1
        text = messages[int(part)]["content"].strip() if is_text else part
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=is_text)["input_ids"]
        pieces.append((list(ids), is_text))
    bos = tokenizer.bos_token_id
    if pieces[0][0][:1] == [bos]:
        pieces[0] = ([bos] * (settings.bos_tokens - 1) + pieces[0][0], False)
    return pieces


def _length(pieces: list[tuple[list[int], bool]]) -> int:
    return sum(len(ids) for ids, _ in pieces)


def _cut_last_content(pieces: list[tuple[list[int], bool]], max_tokens: int) -> bool:
    """Cut the end of the last text in place, so that all pieces together have at most `max_tokens`."""
    excess = _length(pieces) - max_tokens
    if excess <= 0:
        return False
    last = max(position for position, (_, is_text) in enumerate(pieces) if is_text)
    ids, _ = pieces[last]
    if len(ids) <= excess:
        raise PromptError(
            f"the conversation is {excess} tokens over the limit of {max_tokens}, and its last text has only "
            f"{len(ids)}: shorten what comes before it"
        )
    pieces[last] = (ids[: len(ids) - excess], True)
    return True
