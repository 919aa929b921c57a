"""What the browser gets, as JSON: conversations, messages, events, and how the workers are."""

from collections.abc import Sequence
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from wire.events import Delta, End, Event, Resume, Snapshot, Start

from chat.hub import Status
from chat.models import Conversation, Message

REASONS = {
    "unreadable": _("The model runs in another version than this site."),
    "crashed": _("The model broke down several times while it answered this."),
    "failed": _("The model failed on this question."),
    "server": _("The model's server did not answer as it should. Whoever runs this chat finds more in its log."),
    "no_adapter": _("The adapter that was asked is not there: choose another."),
    "no_room": _("The maximum answer length leaves no room for a question: choose a smaller one in the settings."),
    "no_system": _("This model's chat template has no place for a system prompt: leave it empty."),
    "no_look": _("The model's server does not tell what an answer is made of."),
    "too_long": _("The message is too long for this model: shorten it, or choose a smaller maximum answer length."),
}
"""By what workers say (wire.messages.Reason); in the language of whoever reads."""


def reason_text(reason: str | None) -> str | Promise:
    """Why an answer failed, as a sentence; empty where nobody knows."""
    return REASONS.get(reason or "", "")


def conversation_json(conversation: Conversation | None) -> dict[str, Any] | None:
    """Which conversation it is, and what it is called."""
    return {"id": str(conversation.id), "title": conversation.title} if conversation else None


def message_json(message: Message) -> dict[str, Any]:
    """A message as the browser gets it, with all that is known about where it came from."""
    value: dict[str, Any] = {
        "id": str(message.id),
        "parent": str(message.parent_id) if message.parent_id else None,
        "role": message.role,
        "text": message.text,
        "created": message.created.timestamp(),
    }
    if message.role == Message.Role.ASSISTANT:
        pair = message.pair
        value |= {
            "target": message.target,
            "pair": {"id": str(pair.id), "left": pair.left, "choice": pair.choice} if pair else None,
            "state": message.state,
            "finish": message.finish,
            "detail": reason_text(message.detail),
            "adapter": message.adapter,
            "given": message.given,
            "system": message.system,
            "settings": message.settings,
            "seed": message.seed,
            "model": message.model,
            "adapter_sha": message.adapter_sha,
            "worker": message.worker,
            "usage": message.usage,
            "timings": message.timings,
        }
    return value


def event_json(event: Event) -> dict[str, Any]:
    """An event as the browser gets it: the text of a delta, not its tokens."""
    match event:
        case Start():
            return {
                "type": "start",
                "worker": event.worker,
                "model": event.model,
                "adapter_sha": event.adapter_sha,
                "turns_left_out": event.turns_left_out,
            }
        case Delta():
            return {"type": "delta", "text": event.text}
        case Resume():
            return {"type": "resume"}
        case Snapshot():
            return {"type": "snapshot", "text": event.text}
        case End():
            return {
                "type": "end",
                "finish": event.finish,
                "detail": reason_text(event.reason),
                "usage": event.usage,
                "timings": event.timings,
            }


def events_frame(gid: str, items: Sequence[tuple[str, Event]]) -> dict[str, Any]:
    """Events of one generation; deltas in a row become one, under the id of the last."""
    sent: list[list[Any]] = []
    for number, event in items:
        value = event_json(event)
        if sent and value["type"] == "delta" == sent[-1][1]["type"]:
            sent[-1] = [number, {"type": "delta", "text": sent[-1][1]["text"] + value["text"]}]
        else:
            sent.append([number, value])
    return {"type": "events", "gid": gid, "items": sent}


def status_json(status: Status) -> dict[str, Any]:
    """Whether the queue responds, and which models are there; None for workers: not known yet."""
    workers = None
    if status.workers is not None:
        workers = [
            {
                "model": one.model,
                "adapter_sha": one.adapter_sha,
                "adapters": [{"name": each.name, "scores": each.scores} for each in one.adapters],
            }
            for one in status.workers
        ]
    return {"online": status.online, "workers": workers}
