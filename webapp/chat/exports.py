"""What people take with them: a conversation as Markdown, JSON or a page, and votes as preference data."""

import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import nh3
from django.contrib.auth.models import AbstractBaseUser
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

from chat.models import Conversation, Message, Pair, Target
from chat.payloads import message_json


def path_to(messages: list[Message], leaf: Message | None) -> list[Message]:
    """The branch from the first message to `leaf`, or else to the newest one, or the preferred of its pair."""
    by_id = {message.id: message for message in messages}
    path = []
    at = leaf or (messages[-1] if messages else None)
    if at and not leaf and at.pair:
        at = next((side for side in _sides(messages, at) if side.target == side.pair.choice), at)
    while at is not None:
        path.append(at)
        at = by_id.get(at.parent_id)
    return path[::-1]


def to_read(messages: list[Message], leaf: Message | None) -> list[Message]:
    """The branch of `path_to`, with both answers of a pair without a vote: which one goes on would tell whose it is."""
    path = path_to(messages, leaf)
    return [side for message in path for side in (_sides(messages, message) if _blind(message) else [message])]


def _sides(messages: list[Message], answer: Message) -> list[Message]:
    """The answers of a pair, the left one first."""
    sides = (message for message in messages if message.pair_id == answer.pair_id)
    return sorted(sides, key=lambda side: side.target != side.pair.left)


def who(message: Message) -> str:
    """Whose words these are: the person's, the original model's, or Klepon's, with the adapter if it is a chosen one.

    Of a pair without a vote it does not say which: reading the conversation must not decide the vote.
    """
    if message.role == Message.Role.USER:
        return _("You")
    if _blind(message):
        return _("Answer A") if message.pair.left == message.target else _("Answer B")
    return message.get_target_display() + (f" · {message.adapter}" if message.adapter else "")


def _blind(message: Message) -> bool:
    return bool(message.pair and not message.pair.choice)


def as_markdown(conversation: Conversation, path: list[Message]) -> str:
    """One branch, to read. Texts stand as they were written: answers are Markdown already."""
    parts = [f"# {conversation.title}\n"]
    for message in path:
        parts.append(f"## {who(message)}\n\n{message.text}\n")
        if message.model and not _blind(message):
            parts.append(f"*{provenance(message)}*\n")
    return "\n".join(parts)


_CLOSES = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}
#: No sum of money: no blank inside at either end, no letter and no digit after.
_SINGLE = re.compile(r"\$(?![\s$])(?:\\.|[^$\\\n])*?(?:\\.|[^\s\\$])\$(?![^\W_])")


def _maths(state: StateInline, silent: bool) -> bool:
    """TeX stays as it was written, instead of losing its backslashes to Markdown (in the browser: maths.js)."""
    end = _end_of_maths(state.src, state.pos, state.posMax)
    if not end:
        return False
    if not silent:
        state.push("math", "", 0).content = state.src[state.pos : end]
    state.pos = end
    return True


def _end_of_maths(text: str, start: int, most: int) -> int:
    """Where the mathematics ends that begins here, or 0."""
    if close := _CLOSES.get(text[start : start + 2]):
        end = text.find(close, start + 2, most)
        return end + 2 if text[start + 2 : max(end, 0)].strip() else 0
    before = text[start - 1 : start] if start else ""
    if text[start] != "$" or before == "\\" or before.isalnum():
        return 0
    found = _SINGLE.match(text, start, min(most, start + 1_000))
    return found.end() if found else 0


def _maths_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """A formula of several lines, of which none is a list or a heading."""
    start = state.bMarks[first] + state.tShift[first]
    close = _CLOSES.get(state.src[start : start + 2])
    end = state.src.find(close, start + 2, state.eMarks[last - 1]) if close and close != "\\)" else -1
    if end < 0 or state.is_code_block(first):
        return False
    until = next(line for line in range(first, last) if state.eMarks[line] >= end)
    lines = [
        state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].rstrip()
        for line in range(first, until + 1)
    ]
    text = "\n".join(lines)
    # A formula has no empty line, and nothing after it.
    if not all(lines) or text.find(str(close), 2) != len(text) - 2 or not text[2:-2].strip():
        return False
    if silent:
        return True
    state.line = until + 1
    state.push("paragraph_open", "p", 1).map = [first, state.line]
    state.push("math", "", 0).content = text
    state.push("paragraph_close", "p", -1)
    return True


def _markdown() -> MarkdownIt:
    """Markdown as in the browser (static/chat/markdown.js): no HTML, no pictures from elsewhere, no styles."""
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    parser.inline.ruler.before("escape", "math", _maths)
    of = ["paragraph", "reference", "blockquote", "list"]
    parser.block.ruler.before("fence", "math", _maths_block, {"alt": of})

    def math(renderer: Any, tokens: Any, index: int, *_: Any) -> str:
        return f'<span class="math">{escape(tokens[index].content)}</span>'

    def image(renderer: Any, tokens: Any, index: int, *_: Any) -> str:
        source = str(tokens[index].attrs["src"])
        return f'<a href="{escape(source)}">{escape(tokens[index].content or source)}</a>'

    def cell(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
        if style := tokens[index].attrs.pop("style", ""):
            tokens[index].attrs["class"] = str(style).replace("text-align:", "to-")
        return str(renderer.renderToken(tokens, index, options, env))

    for name, rule in {"math": math, "image": image, "th_open": cell, "td_open": cell}.items():
        parser.add_render_rule(name, rule)
    return parser


def _with_thought(text: str) -> tuple[str, str]:
    """What a model that reasons wrote for itself, and what it says (in the browser: static/chat/markdown.js)."""
    found = re.match(r"\s*<think>(.*?)(?:</think>\s*|\Z)", text, re.DOTALL)
    return (found[1].strip(), text[found.end() :]) if found else ("", text)


_PURE = {
    "tags": nh3.ALLOWED_TAGS - {"img"},
    "attributes": {"a": {"href"}, "span": {"class"}, "th": {"class"}, "td": {"class"}, "ol": {"start"}},
    "url_schemes": {"http", "https", "mailto"},
}


def as_page(conversation: Conversation, path: list[Message], *, alone: bool) -> str:
    """One branch as an HTML page without scripts, with where each answer came from.

    Args:
        conversation: Whose title and time stand above.
        path: The branch.
        alone: Whether the page is a file of its own, that carries its styles, or one of this site.
    """
    parser = _markdown()
    turns = []
    for message in path:
        answer = message.role == Message.Role.ASSISTANT
        thought, said = _with_thought(message.text) if answer else ("", message.text)
        turns.append(
            {
                "message": message,
                "who": who(message),
                "html": nh3.clean(parser.render(said), **_PURE) if answer else "",
                "thought": thought,
                "provenance": provenance(message) if message.model and not _blind(message) else "",
            }
        )
    style = (Path(__file__).parent / "static" / "chat" / "reading.css").read_text(encoding="utf-8") if alone else ""
    return render_to_string("chat/reading.html", {"conversation": conversation, "turns": turns, "style": style})


def provenance(message: Message) -> str:
    """Where an answer came from, in one line."""
    parts = [message.model]
    if message.adapter_sha:
        parts.append(f"{_('adapter')} {message.adapter_sha[:12]}")
    parts.append(f"{_('seed')} {message.seed}")
    parts += [
        f"{name} {value}"
        for name, value in message.settings.items()
        # 0 is a choice, and equals False.
        if value is not None and value is not False and value != "" and name != "seed"
    ]
    if tokens := message.usage.get("completion_tokens"):
        parts.append(f"{tokens} {_('tokens')}")
    return ", ".join(parts)


def as_json(conversation: Conversation, messages: list[Message]) -> dict[str, Any]:
    """The whole tree; of a pair without a vote the left answer first, and only what its page shows."""
    told = []
    for message in messages:
        if not _blind(message):
            told.append(message_json(message))
        elif message is _sides(messages, message)[0]:
            told += [_blind_json(side) for side in _sides(messages, message)]
    return {
        "format": "klepon-conversation-1",
        "id": str(conversation.id),
        "title": conversation.title,
        "created": conversation.created.isoformat(),
        "messages": told,
    }


def _blind_json(message: Message) -> dict[str, Any]:
    value = message_json(message)
    told = ("id", "parent", "role", "text", "state", "finish", "detail", "given", "system", "settings", "seed")
    return {name: value[name] for name in told} | {"pair": {"id": value["pair"]["id"], "choice": ""}}


def preference_lines(user: AbstractBaseUser) -> Iterator[str]:
    """The blind votes of a user as JSON lines in TRL's conversational preference format.

    `choice` and `left` name sides: adapter, and base or rival, another adapter.

    Votes for neither side, and pairs with an answer that did not end by itself, teach no preference and are left out.
    """
    votes = Pair.objects.filter(answers__conversation__owner=user, choice__in=Target.values).distinct()
    for pair in votes.order_by("voted").prefetch_related("answers__conversation__messages"):
        answers = {answer.target: answer for answer in pair.answers.all()}
        if len(answers) != 2 or any(one.finish != "stop" for one in answers.values()):
            continue
        chosen = answers[pair.choice]
        rejected = next(one for one in answers.values() if one is not chosen)
        path = path_to(list(chosen.conversation.messages.all()), chosen)[:-1]
        system = [{"role": "system", "content": chosen.system}] if chosen.system else []
        line = {
            "prompt": [*system, *({"role": message.role, "content": message.text} for message in path)],
            "chosen": [{"role": "assistant", "content": chosen.text}],
            "rejected": [{"role": "assistant", "content": rejected.text}],
            "choice": pair.choice,
            "left": pair.left,
            "seed": chosen.seed,
            "model": chosen.model,
            "adapter_sha": answers[Target.ADAPTER].adapter_sha,
            "voted": pair.voted.isoformat() if pair.voted else None,
        }
        yield json.dumps(line, ensure_ascii=False) + "\n"
