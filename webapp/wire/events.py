"""What a worker writes about a generation, in order, and how that becomes a text.

An event's id is `<epoch>-<number>`. The epoch counts the owners of a generation, so whatever an owner writes after it
was replaced is older than what its successor wrote. Whoever reads keeps the last id, and ignores what is not newer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from wire.messages import Finish, Reason, Target, Timings, Usage
from wire.strict import WireError, build, dump, parse

ORIGIN = "0-0"
"""Before any event."""


@dataclass(frozen=True)
class Start:
    """A worker began: whatever text came before is void (a snapshot may follow)."""

    worker: str
    model: str
    adapter_sha: str | None
    """None: the base model answers."""
    seed: int
    prompt_tokens: int | None
    """None where the engine does not count them."""
    target: Target
    turns_left_out: int = 0
    """The oldest turns, where the conversation is longer than the model can read."""


@dataclass(frozen=True)
class Delta:
    """More text, and the tokens that it is made of (none where the engine does not tell)."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Resume:
    """Another worker goes on after this many tokens."""

    from_tokens: int


@dataclass(frozen=True)
class Snapshot:
    """All text so far: it replaces what came before."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """The last event."""

    finish: Finish
    reason: Reason | None
    usage: Usage
    timings: Timings


Event = Start | Delta | Resume | Snapshot | End
_KINDS: dict[str, type] = {"start": Start, "delta": Delta, "resume": Resume, "snapshot": Snapshot, "end": End}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_json(event: Event) -> str:
    """As JSON, with the field `type`."""
    return f'{{"type":"{_NAMES[type(event)]}",{dump(event)[1:]}'


def from_json(text: str | bytes) -> Event:
    """From JSON.

    Raises:
        WireError: if it is no event.
    """
    value = parse(text)
    kind = _KINDS.get(str(value.pop("type", None))) if isinstance(value, dict) else None
    if kind is None:
        raise WireError(f"not an event: {text!r:.80}; it needs a type out of {', '.join(_KINDS)}")
    return build(kind, value)


def id_of(text: str) -> tuple[int, int]:
    """An event id as numbers, which compare in the order of the stream.

    Raises:
        WireError: if it is none.
    """
    epoch, dash, number = text.partition("-")
    if not (dash and epoch.isdecimal() and number.isdecimal() and text.isascii() and len(text) <= 41):
        raise WireError(f"not an event id: {text!r:.80}; expected <epoch>-<number>")
    return int(epoch), int(number)


@dataclass
class Transcript:
    """What the events so far add up to."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    last: str = ORIGIN
    start: Start | None = None
    end: End | None = None

    def add(self, event_id: str, event: Event) -> None:
        """Take in one event, unless it is known already."""
        if id_of(event_id) <= id_of(self.last):
            return
        self.last = event_id
        match event:
            case Start():
                self.start, self.text, self.ids = event, "", []
            case Delta():
                self.text += event.text
                self.ids.extend(event.ids)
            case Snapshot():
                self.text, self.ids = event.text, list(event.ids)
            case End():
                self.end = event

    @classmethod
    def of(cls, events: Iterable[tuple[str, Event]]) -> "Transcript":
        """The sum of these events."""
        made = cls()
        for event_id, event in events:
            made.add(event_id, event)
        return made
