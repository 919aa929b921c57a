"""What a socket asks the database: for a user's own conversations, messages and answers, and for nobody else's.

All functions here use the database and run in its thread.
"""

from datetime import UTC, datetime
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from chat.frames import FrameError, Hello
from chat.models import Conversation, Message

OVERLAP_SECONDS = 5.0
"""What was changed shortly before a look at the database may have been committed after it."""


def own_conversation(user: AbstractBaseUser, conversation: UUID) -> Conversation:
    """A conversation of this user.

    Raises:
        FrameError: if there is none; another's looks the same as one that never was.
    """
    found = Conversation.objects.filter(id=conversation, owner=user).first()
    if found is None:
        raise FrameError("unknown", _("There is no such conversation."))
    return found


def own_message(user: AbstractBaseUser, message: UUID, role: Message.Role) -> Message:
    """A message of this user's conversations.

    Raises:
        FrameError: if there is none.
    """
    found = (
        Message.objects.select_related("conversation", "parent", "pair")
        .filter(id=message, conversation__owner=user, role=role)
        .first()
    )
    if found is None:
        raise FrameError("unknown", _("There is no such message."))
    return found


def messages_since(conversation: Conversation, since: float) -> list[Message]:
    """The messages of a conversation that changed after a time of the server, oldest first."""
    moment = datetime.fromtimestamp(since, tz=UTC)
    return list(conversation.messages.select_related("pair").filter(changed__gt=moment))


def unended(conversation: Conversation) -> list[str]:
    """The ids of a conversation's answers that have not ended."""
    rows = conversation.messages.filter(state=Message.State.QUEUED).values_list("id", flat=True)
    return [str(row) for row in rows]


def owned(user: AbstractBaseUser, gids: list[str]) -> QuerySet[Message]:
    """Those of these answers that are in this user's conversations."""
    return Message.objects.select_related("pair").filter(
        id__in=gids, conversation__owner=user, role=Message.Role.ASSISTANT
    )


def is_own(user: AbstractBaseUser, gid: str) -> bool:
    """Whether this answer is in one of this user's conversations."""
    return owned(user, [gid]).exists()


def state_of(user: AbstractBaseUser, frame: Hello) -> tuple[Conversation | None, list[Message], list[str]]:
    """The open conversation, what changed in it, and the answers to follow: whatever the client knows no end of."""
    conversation, messages, live = None, [], []
    if frame.conversation:
        conversation = own_conversation(user, frame.conversation)
        messages = messages_since(conversation, frame.since)
        live = unended(conversation)
    known = {message.id for message in messages}
    begun = list(owned(user, list(frame.cursors)))
    messages += [one for one in begun if one.id not in known]
    return conversation, messages, sorted({*live, *(str(one.id) for one in begun)})
