"""The end of an answer, in the database."""

from uuid import UUID

from django.db.models import TextField, Value
from django.db.models.functions import Concat
from django.utils import timezone
from wire.events import Transcript
from wire.messages import Finished

from chat.models import Message


def finished(gid: str, transcript: Transcript) -> Finished | None:
    """The final record that the events of a generation add up to; None if they have no end yet."""
    start, end = transcript.start, transcript.end
    if end is None:
        return None
    return Finished(
        gid=gid,
        finish=end.finish,
        reason=end.reason,
        text=transcript.text,
        ids=tuple(transcript.ids),
        worker=start.worker if start else None,
        model=start.model if start else None,
        adapter_sha=start.adapter_sha if start else None,
        usage=end.usage,
        timings=end.timings,
    )


def store(record: Finished) -> bool:
    """Store an ended answer; storing it again changes nothing. False if there is no such message (any more)."""
    return bool(
        Message.objects.filter(id=UUID(record.gid), role=Message.Role.ASSISTANT).update(
            # PostgreSQL keeps no NUL, and no tokenizer should make one.
            text=Concat("given", Value(record.text.replace("\0", "\ufffd")), output_field=TextField()),
            state=Message.State.ENDED,
            finish=record.finish,
            detail=record.reason or "",
            model=record.model or "",
            adapter_sha=record.adapter_sha or "",
            worker=record.worker or "",
            usage=dict(record.usage),
            timings=dict(record.timings),
            changed=timezone.now(),
        )
    )


def store_lost(gid: str) -> bool:
    """Say of an answer that its end will never come; one that has ended stays as it is."""
    return bool(
        Message.objects.filter(id=UUID(gid), state=Message.State.QUEUED).update(
            state=Message.State.LOST, changed=timezone.now()
        )
    )
