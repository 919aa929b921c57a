"""From a frame to stored messages and requests for the model: how a socket adds to the tree of messages.

All functions here use the database and run in its thread. Ids of messages are made from the user and the frame's
`cid`, so a frame that arrives twice finds what its first arrival stored.
"""

import secrets
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid5

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from wire.messages import Request, Settings, Turn

from chat.forms import SEEDS
from chat.frames import Edit, FrameError, Regenerate, Send, is_blank
from chat.models import Conversation, Message, Pair, Target
from chat.queries import own_conversation, own_message

NAMES = UUID("4f2a5c1e-6c1f-4d0e-9d5a-0b6f9e7b1c55")
"""Namespace of the ids that are made from a user and a cid."""


@dataclass(frozen=True)
class Opened:
    """What a frame opened: the messages to show, and the requests that fill the empty ones."""

    conversation: Conversation
    messages: list[Message]
    requests: list[Request]
    revealed: list[Message] = field(default_factory=list)
    """A pair above that had no vote."""


class UnfinishedError(Exception):
    """Answers further up have no stored end, and without it a request would be wrong. Nothing was stored."""

    def __init__(self, gids: list[str]):
        super().__init__(f"answers without a stored end: {', '.join(gids)}")
        self.gids = gids


def open_turn(user: AbstractBaseUser, frame: Send | Edit | Regenerate) -> Opened:
    """Store what a frame asks for.

    Raises:
        FrameError: if what it speaks of is not there, or cannot be answered.
        UnfinishedError: as `requests_for`.
    """
    match frame:
        case Send():
            return open_send(user, frame)
        case Edit():
            return open_edit(user, frame)
        case Regenerate():
            return open_regenerate(user, frame)


@transaction.atomic
def open_send(user: AbstractBaseUser, frame: Send) -> Opened:
    """Store a new text and its empty answers.

    Raises:
        FrameError: if the conversation or the parent is not there, or the parent is not an answer.
        UnfinishedError: as `requests_for`, here and below.
    """
    if again := _again(user, frame.cid):
        return again
    if frame.conversation is None:
        if frame.parent is not None:
            raise FrameError("field", "A parent needs its conversation.", frame.cid)
        conversation = Conversation(id=_name(user, frame.cid, "conversation"), owner=user, title=title_of(frame.text))
        conversation.save(force_insert=True)
        parent = None
    else:
        conversation = own_conversation(user, frame.conversation)
        parent = own_message(user, frame.parent, Message.Role.ASSISTANT) if frame.parent else None
        if parent and parent.conversation_id != conversation.id:
            raise FrameError("unknown", _("There is no such message."), frame.cid)
    asked = _Asked(frame.settings, frame.target, frame.system, frame.adapter, frame.rival)
    return _ask(user, frame.cid, conversation, parent, frame.text, asked)


@transaction.atomic
def open_edit(user: AbstractBaseUser, frame: Edit) -> Opened:
    """Store another text in the place of one, with the settings of its last answer unless the frame says others."""
    if again := _again(user, frame.cid):
        return again
    old = own_message(user, frame.message, Message.Role.USER)
    asked = _as_before(old.children.last(), frame)
    return _ask(user, frame.cid, old.conversation, old.parent, frame.text, asked)


@transaction.atomic
def open_regenerate(user: AbstractBaseUser, frame: Regenerate) -> Opened:
    """Store further empty answers to the text that an answer belongs to."""
    if again := _again(user, frame.cid):
        return again
    old = own_message(user, frame.message, Message.Role.ASSISTANT)
    asked = _as_before(old, frame)
    if frame.given:
        if asked.target == "both":
            raise FrameError("field", "One answer is continued, not a pair.", frame.cid)
        asked = replace(asked, given=frame.given)
    if frame.settings is None:
        # "Again" with the old seed would give the old text.
        asked = replace(asked, settings=asked.settings | {"seed": None})
    assert old.parent is not None
    return _answers(user, frame.cid, old.parent, [], asked)


def withdraw(opened: Opened) -> None:
    """Take back what a frame stored, since nothing will answer it; unless a part of it was answered before."""
    if len(opened.requests) < sum(message.role == Message.Role.ASSISTANT for message in opened.messages):
        return
    pairs = {message.pair_id for message in opened.messages if message.pair_id}
    Message.objects.filter(id__in=[message.id for message in opened.messages]).delete()
    Pair.objects.filter(id__in=pairs).delete()
    Pair.objects.filter(id__in={message.pair_id for message in opened.revealed}).update(choice="", voted=None)
    if not opened.conversation.messages.exists():
        opened.conversation.delete()


def requests_for(answers: list[Message]) -> list[Request]:
    """The requests that fill empty answers to one text.

    Raises:
        UnfinishedError: if an answer above may still be written.
        FrameError: if an answer above is empty, so that nothing would stand between two texts of the user.
    """
    if not answers:
        return []
    conversation, question = answers[0].conversation, answers[0].parent
    assert question is not None
    path = [question]
    if question.parent_id is not None:
        # With the conversation's id: without it, each row would be asked for once more by itself.
        rows = conversation.messages.only("id", "conversation_id", "parent_id", "role", "text", "state")
        by_id = {row.id: row for row in rows}
        while path[-1].parent_id is not None:
            path.append(by_id[path[-1].parent_id])
    path.reverse()
    if unfinished := [str(row.id) for row in path if row.state == Message.State.QUEUED]:
        raise UnfinishedError(unfinished)
    if any(is_blank(row.text) for row in path):
        raise FrameError("hollow", _("The answer above is empty: ask for another one first."))
    said = [Turn(role=row.role, content=row.text) for row in path]
    return [
        Request(
            gid=str(answer.id),
            user=str(conversation.owner_id),
            conversation=str(conversation.id),
            turns=(*([Turn("system", answer.system)] if answer.system else []), *said),
            target="base" if answer.target == Target.BASE else "adapter",
            seed=answer.seed,
            settings=Settings(**{name: value for name, value in answer.settings.items() if name != "seed"}),
            given=answer.given,
            adapter=answer.adapter,
        )
        for answer in answers
    ]


def title_of(text: str) -> str:
    """A conversation's first title: the start of its first text, in one line, cut between words."""
    line = " ".join(text.split())
    if len(line) <= 60:
        return line
    return line[:60].rsplit(" ", 1)[0].rstrip(",.;:") + "…"


def _name(user: AbstractBaseUser, cid: str, what: str) -> UUID:
    return uuid5(NAMES, f"{user.pk}\0{cid}\0{what}")


def _again(user: AbstractBaseUser, cid: str) -> Opened | None:
    """What the same frame opened before, with requests for those answers that have not ended."""
    ids = [_name(user, cid, what) for what in ("user", *Target.values)]
    found = Message.objects.filter(id__in=ids)
    # Nearly always there are none, and asking only for that takes a third of the time.
    if not found.exists():
        return None
    messages = list(found.select_related("conversation", "parent", "pair"))
    waiting = [message for message in messages if message.state == Message.State.QUEUED]
    return Opened(messages[0].conversation, messages, requests_for(waiting))


@dataclass(frozen=True)
class _Asked:
    """How answers are asked for."""

    settings: dict[str, Any]
    target: str
    system: str
    adapter: str
    rival: str
    given: str = ""


def _as_before(answer: Message | None, frame: Edit | Regenerate) -> _Asked:
    """What a frame asks for; what it does not say is as with an earlier answer."""
    settings, target, system = frame.settings, frame.target, frame.system
    if settings is None:
        settings = dict(answer.settings) if answer else {"max_new_tokens": 256}
    if target is None:
        # One side of a pair is continued alone.
        pair = answer and answer.pair_id and not getattr(frame, "given", "")
        target = "both" if pair else ("base" if answer and answer.target == Target.BASE else "adapter")
    if system is None:
        system = answer.system if answer else ""
    sides = {one.target: one.adapter for one in (answer.pair.answers.all() if answer and answer.pair else [])}
    own = answer.adapter if answer else ""
    adapter, rival = frame.adapter, frame.rival
    if adapter is None:
        adapter = own if own and target != "both" else sides.get(Target.ADAPTER, own)
    if rival is None:
        rival = sides.get(Target.RIVAL, "")
    return _Asked(settings, target, system, adapter, rival)


def _ask(
    user: AbstractBaseUser,
    cid: str,
    conversation: Conversation,
    parent: Message | None,
    text: str,
    asked: _Asked,
) -> Opened:
    question = Message(
        id=_name(user, cid, "user"), conversation=conversation, parent=parent, role=Message.Role.USER, text=text
    )
    return replace(_answers(user, cid, question, [question], asked), revealed=_reveal(parent))


def _reveal(answer: Message | None) -> list[Message]:
    """End the vote on a pair that a text goes on from, which shows whose answer that was; returns its answers."""
    if answer is None or answer.pair is None or answer.pair.choice:
        return []
    now = timezone.now()
    Pair.objects.filter(id=answer.pair_id, choice="").update(choice=Pair.Choice.SEEN, voted=now)
    sides = Message.objects.filter(pair=answer.pair_id)
    sides.update(changed=now)
    return list(sides.select_related("pair"))


def _answers(
    user: AbstractBaseUser,
    cid: str,
    question: Message,
    new: list[Message],
    asked: _Asked,
) -> Opened:
    conversation = question.conversation
    adapters = {Target.BASE: "", Target.ADAPTER: asked.adapter, Target.RIVAL: asked.rival}
    if asked.target == "both":
        targets = [Target.RIVAL if asked.rival else Target.BASE, Target.ADAPTER]
        if asked.rival == asked.adapter != "":
            raise FrameError("field", _("Choose two different adapters to compare."), cid)
        pair = Pair.objects.create(left=secrets.choice(targets))
    else:
        targets, pair = [Target(asked.target)], None
    seed = asked.settings.get("seed")
    seed = secrets.randbelow(SEEDS) if seed is None else seed
    answers = [
        Message(
            id=_name(user, cid, one),
            conversation=conversation,
            parent=question,
            role=Message.Role.ASSISTANT,
            target=one,
            pair=pair,
            state=Message.State.QUEUED,
            text=asked.given,
            given=asked.given,
            adapter=adapters[one],
            system=asked.system,
            settings=asked.settings,
            seed=seed,
        )
        for one in targets
    ]
    Message.objects.bulk_create([*new, *answers])
    conversation.save(update_fields=["updated"])
    return Opened(conversation, [*new, *answers], requests_for(answers))
