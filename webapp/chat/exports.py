"""What people take with them: a conversation as Markdown or JSON, and votes as preference data."""

import json
from collections.abc import Iterator
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.utils.translation import gettext as _

from chat.models import Conversation, Message, Pair, Target
from chat.payloads import message_json


def path_to(messages: list[Message], leaf: Message | None) -> list[Message]:
    """The branch from the first message to `leaf`, or to the newest one if none is named."""
    by_id = {message.id: message for message in messages}
    path = []
    at = leaf or (messages[-1] if messages else None)
    while at is not None:
        path.append(at)
        at = by_id.get(at.parent_id)
    return path[::-1]


def as_markdown(conversation: Conversation, path: list[Message]) -> str:
    """One branch, to read. Texts stand as they were written: answers are Markdown already."""
    parts = [f"# {conversation.title}\n"]
    for message in path:
        who = _("You") if message.role == Message.Role.USER else "Klepon"
        if message.target:
            who += f" ({message.get_target_display()}{' ' * bool(message.adapter)}{message.adapter})"
        parts.append(f"## {who}\n\n{message.text}\n")
        if message.model:
            parts.append(f"*{provenance(message)}*\n")
    return "\n".join(parts)


def provenance(message: Message) -> str:
    """Where an answer came from, in one line."""
    parts = [message.model]
    if message.adapter_sha:
        parts.append(f"{_('adapter')} {message.adapter_sha[:12]}")
    parts.append(f"{_('seed')} {message.seed}")
    if tokens := message.usage.get("completion_tokens"):
        parts.append(f"{tokens} {_('tokens')}")
    return ", ".join(parts)


def as_json(conversation: Conversation, messages: list[Message]) -> dict[str, Any]:
    """The whole tree."""
    return {
        "format": "klepon-conversation-1",
        "id": str(conversation.id),
        "title": conversation.title,
        "created": conversation.created.isoformat(),
        "messages": [message_json(message) for message in messages],
    }


def preference_lines(user: AbstractBaseUser) -> Iterator[str]:
    """The blind votes of a user as JSON lines in TRL's conversational preference format.

    Votes for neither side, and pairs with an answer that did not end by itself, teach no preference and are left out.
    """
    votes = Pair.objects.filter(
        answers__conversation__owner=user, choice__in=[Pair.Choice.BASE, Pair.Choice.ADAPTER]
    ).distinct()
    for pair in votes.order_by("voted").prefetch_related("answers__conversation__messages"):
        answers = {answer.target: answer for answer in pair.answers.all()}
        if set(answers) != set(Target.values) or any(one.finish != "stop" for one in answers.values()):
            continue
        chosen = answers[pair.choice]
        rejected = answers[Target.BASE if pair.choice == Target.ADAPTER else Target.ADAPTER]
        path = path_to(list(chosen.conversation.messages.all()), chosen)[:-1]
        line = {
            "prompt": [{"role": message.role, "content": message.text} for message in path],
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
