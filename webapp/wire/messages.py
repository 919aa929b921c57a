"""What the site asks of a worker, and what remains of it at the end."""

import re
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from wire.strict import WireError, dump, load

Target = Literal["base", "adapter"]
Finish = Literal["stop", "length", "cancelled", "error"]
GenerationState = Literal["queued", "running", "ended", "lost"]
Reason = Literal[
    "unreadable", "crashed", "failed", "server", "no_adapter", "no_room", "too_long", "no_system", "no_look"
]
"""Why an answer ended with an error. The site has a sentence for each, in the language of whoever asked; details are in
the worker's log.

unreadable: the request is of another version. crashed: the model's process died several times. failed: it raised.
server: the model's server did not answer as it should. no_adapter: there is none of that name. no_room: the answer may
take all that the model can read. too_long: the question does not fit beside it. no_system: the chat template has no
place for a system prompt. no_look: the model's server does not tell what an answer is made of.
"""

MAX_NEW_TOKENS = 4_096
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Settings:
    """How to decode. None is the model's own default."""

    max_new_tokens: int = 256
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    """0: no limit."""
    greedy: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_new_tokens <= MAX_NEW_TOKENS:
            raise WireError(f"max_new_tokens={self.max_new_tokens}: choose from 1 to {MAX_NEW_TOKENS}")
        if self.temperature is not None and not 0 < self.temperature <= 10:
            raise WireError(f"temperature={self.temperature}: choose above 0 and up to 10; for 0, set greedy")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise WireError(f"top_p={self.top_p}: choose above 0 and up to 1")
        if self.top_k is not None and not 0 <= self.top_k <= 2**31:
            raise WireError(f"top_k={self.top_k}: choose 0 (no limit) or more")


@dataclass(frozen=True)
class Request:
    """One answer to be generated."""

    gid: str
    user: str
    conversation: str
    turns: tuple[Turn, ...]
    target: Target
    seed: int
    settings: Settings = field(default_factory=Settings)
    given: str = ""
    """What the answer begins with already: the rest is generated, and is all that the events tell."""
    adapter: str = ""
    """Which adapter, by the name that a worker offers it under; empty: the chat's own."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.gid):
            raise WireError(f"gid={self.gid!r:.80}: up to 64 letters, digits, dots, dashes or underscores")
        if not 0 <= self.seed < 2**32:
            raise WireError(f"seed={self.seed}: choose from 0 to 2**32 - 1")
        if len(self.said) % 2 == 0:
            raise WireError("turns: the last one must be the user's")
        for n, turn in enumerate(self.said, start=len(self.system)):
            if turn.role != ("user", "assistant")[(n - len(self.system)) % 2]:
                raise WireError(f"turns[{n}]: user and assistant take turns, the user begins; got {turn.role}")

    @property
    def system(self) -> tuple[Turn, ...]:
        """The system's turn, if there is one."""
        return tuple(turn for turn in self.turns[:1] if turn.role == "system")

    @property
    def said(self) -> tuple[Turn, ...]:
        """The turns of user and assistant."""
        return self.turns[len(self.system) :]

    def to_json(self) -> str:
        """As JSON."""
        return dump(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Request":
        """From JSON; WireError if it is no request."""
        return load(cls, text)


@dataclass(frozen=True)
class Look:
    """A finished answer, to be looked at token by token."""

    id: str
    request: Request
    """What was asked, without anything given."""
    text: str
    """All of the answer."""
    ended: bool
    """It came to its end by itself, so the token that ended it is part of it."""

    def to_json(self) -> str:
        """As JSON."""
        return dump(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Look":
        """From JSON; WireError if it is none."""
        return load(cls, text)


@dataclass(frozen=True)
class Piece:
    """A token of a prompt."""

    text: str
    written: bool
    """Part of what somebody wrote; else of the chat template."""


@dataclass(frozen=True)
class Likely:
    """A token that a model might have chosen."""

    text: str
    probability: float


@dataclass(frozen=True)
class Chosen:
    """A token of an answer, and what either model makes of it where everything before it is given."""

    text: str
    """Empty where it ends within a character: that comes with the next."""
    base: float
    """Its probability."""
    adapter: float | None
    """None: there is no adapter."""
    base_likely: tuple[Likely, ...]
    """The likeliest tokens in its place, the likeliest first."""
    adapter_likely: tuple[Likely, ...]


@dataclass(frozen=True)
class Seen:
    """An answer as the models see it: the exact prompt, and each token's probability under base and adapter."""

    reason: Reason | None = None
    """Why it cannot be looked at."""
    prompt: tuple[Piece, ...] = ()
    answer: tuple[Chosen, ...] = ()
    turns_left_out: int = 0

    def to_json(self) -> str:
        """As JSON."""
        return dump(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Seen":
        """From JSON; WireError if it is none."""
        return load(cls, text)


class Usage(TypedDict):
    """Tokens read and written."""

    prompt_tokens: int | None
    """None where nobody counted them: cancelled in the queue, or an engine that does not tell."""
    completion_tokens: int


class Timings(TypedDict):
    """Where the time went. None: it did not come to that, or the worker that measured it died."""

    queued_ms: float | None
    """From admission to a worker's claim."""
    first_token_ms: float | None
    """From the claim to the first token."""
    total_ms: float | None
    """From admission to the end."""
    tokens_per_second: float | None
    """While decoding, without the prompt."""


@dataclass(frozen=True)
class Finished:
    """The final record of a generation: what the database keeps. It may come twice, with the same gid."""

    gid: str
    finish: Finish
    reason: Reason | None
    """Why, after an error."""
    text: str
    ids: tuple[int, ...]
    worker: str | None
    model: str | None
    adapter_sha: str | None
    usage: Usage
    timings: Timings

    def to_json(self) -> str:
        """As JSON."""
        return dump(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Finished":
        """From JSON; WireError if it is no final record."""
        return load(cls, text)


@dataclass(frozen=True)
class Offered:
    """An adapter beside the chat's own."""

    name: str
    """Run and training, as in demo/5_seed0."""
    sha: str
    scores: str
    """What its run's report says of it; empty where it says nothing."""


@dataclass(frozen=True)
class WorkerState:
    """A worker's heartbeat."""

    name: str
    engine: str
    model: str
    adapter_sha: str | None
    batch: int
    """Sequences that it decodes at once."""
    active: int
    """Sequences that it is decoding now."""
    tokens_per_second: float
    adapters: tuple[Offered, ...] = ()

    def sha_of(self, request: Request) -> str | None:
        """The fingerprint of the adapter that answers a request; None: the base model does, or it is not known."""
        if request.target == "base" or not request.adapter:
            return None if request.target == "base" else self.adapter_sha
        return next((one.sha for one in self.adapters if one.name == request.adapter), None)

    def to_json(self) -> str:
        """As JSON."""
        return dump(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> "WorkerState":
        """From JSON; WireError if it is no heartbeat."""
        return load(cls, text)
