"""Frames of the WebSocket, version 1: what a client may send, parsed and checked.

Every frame is a JSON object with a `type`. What the server sends back is in chat/payloads.py, the browser's side in
static/chat/connection.js.
"""

import json
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from django.utils.translation import gettext as _

from chat.forms import checked_settings

VERSION = 1
MAX_FRAME = 65_536
MAX_TEXT = 16_000
MAX_SYSTEM = 4_000
MAX_CURSORS = 64
LAST_SECOND = 253_402_300_799
"""Of the year 9999, the last that dates can have."""
TARGETS = ("adapter", "base", "both")

#: Letters and symbols to Unicode that leave their place empty.
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"
_CID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ADAPTER = re.compile(r"\w[\w.-]{0,79}/\w[\w.-]{0,78}")
_CURSOR = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")


class FrameError(ValueError):
    """A frame that is not understood or not allowed: the client gets it as an error frame, and keeps the socket."""

    def __init__(self, code: str, message: str, cid: str | None = None):
        super().__init__(message)
        self.code = code
        self.cid = cid


@dataclass(frozen=True)
class Hello:
    """The first frame: which conversation is open and how far each of its running answers has been seen."""

    conversation: UUID | None = None
    cursors: dict[str, str] = field(default_factory=dict)
    since: float = 0.0
    """The server's time (`now`) up to which the client knows the messages."""
    language: str = ""
    user: str = ""
    """Whose page this is; empty: it does not say."""


@dataclass(frozen=True)
class Send:
    """A new text of the user, under a parent or as the start of a conversation."""

    cid: str
    conversation: UUID | None
    parent: UUID | None
    text: str
    settings: dict[str, Any]
    target: str
    system: str = ""
    """What the model is told before the conversation."""
    adapter: str = ""
    """Empty: the chat's own."""
    rival: str = ""
    """The adapter that stands beside it where the target is both; empty: the original model."""


@dataclass(frozen=True)
class Regenerate:
    """Another answer to the same text; or, with what it begins with, the rest of one."""

    cid: str
    message: UUID
    settings: dict[str, Any] | None
    target: str | None
    system: str | None = None
    """None here, and for settings, target, adapter and rival: as before."""
    adapter: str | None = None
    rival: str | None = None
    given: str = ""


@dataclass(frozen=True)
class Edit:
    """Another text of the user, in the place of one that is there."""

    cid: str
    message: UUID
    text: str
    settings: dict[str, Any] | None
    target: str | None
    system: str | None = None
    adapter: str | None = None
    rival: str | None = None


@dataclass(frozen=True)
class Stop:
    """End an answer now; what is written stays."""

    gid: str
    cid: str | None = None


@dataclass(frozen=True)
class Ping:
    """Is anyone there?"""


Frame = Hello | Send | Regenerate | Edit | Stop | Ping


def parse(text: str) -> Frame:
    """A client's frame.

    Raises:
        FrameError: says what is wrong, and with which `cid` if it had one.
    """
    try:
        raw = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise FrameError("json", "The frame is not JSON.") from None
    if not isinstance(raw, dict):
        raise FrameError("json", "The frame is not a JSON object.")
    fields = _Fields(raw)
    kind = fields.take("type", str)
    match kind:
        case "hello":
            frame: Frame = _hello(fields)
        case "send":
            frame = Send(
                cid=fields.cid(),
                conversation=fields.uuid("conversation", optional=True),
                parent=fields.uuid("parent", optional=True),
                text=fields.text(),
                settings=fields.settings() or fields.checked({}),
                target=fields.target() or "adapter",
                system=fields.system() or "",
                adapter=fields.adapter() or "",
                rival=fields.adapter("rival") or "",
            )
        case "regenerate":
            frame = Regenerate(
                cid=fields.cid(),
                message=fields.uuid("message"),
                settings=fields.settings(),
                target=fields.target(),
                system=fields.system(),
                adapter=fields.adapter(),
                rival=fields.adapter("rival"),
                given=fields.given(),
            )
        case "edit":
            frame = Edit(
                cid=fields.cid(),
                message=fields.uuid("message"),
                text=fields.text(),
                settings=fields.settings(),
                target=fields.target(),
                system=fields.system(),
                adapter=fields.adapter(),
                rival=fields.adapter("rival"),
            )
        case "stop":
            frame = Stop(str(fields.uuid("gid")), fields.cid(optional=True))
        case "ping":
            frame = Ping()
        case _:
            raise fields.error("type", f"There is no frame of type {_short(kind)!r}.")
    fields.finish()
    return frame


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: white space, characters without width, marks without a letter."""
    return all(unicodedata.category(letter)[0] in "ZCM" or letter in _BLANKS for letter in text)


def clean_text(text: str, most: int = MAX_TEXT) -> str:
    """What a person wrote, in NFC and with newlines as \\n.

    Raises:
        FrameError: if it is empty, too long or holds a control character.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # As browsers count, so that none lets a text through that is refused here.
    have = len(text.encode("utf-16-le", "surrogatepass")) // 2
    if have > most:
        raise FrameError(
            "long", _("The message has %(have)d characters; the limit is %(most)d.") % {"have": have, "most": most}
        )
    text = unicodedata.normalize("NFC", text)
    for letter in text:
        category = unicodedata.category(letter)
        if category in ("Cc", "Cs") and letter not in "\n\t":
            raise FrameError(
                "control",
                _("The message contains the character U+%(code)04X, which cannot be displayed.")
                % {"code": ord(letter)},
            )
    if is_blank(text):
        raise FrameError("empty", _("The message is empty."))
    return text


class _Fields:
    """The fields of a frame, each taken once; what is left over is an error."""

    def __init__(self, raw: dict[str, Any]):
        self._raw = dict(raw)
        cid = raw.get("cid")
        self._cid = cid if isinstance(cid, str) and _CID.fullmatch(cid) else None

    def error(self, code: str, message: str) -> FrameError:
        return FrameError(code, message, self._cid)

    def take(self, name: str, kind: type, *, optional: bool = False) -> Any:
        value = self._raw.pop(name, None)
        if value is None and optional:
            return None
        # True is an int to Python, and not to anyone else.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error("field", f"{name} is missing or of the wrong type.")
        return value

    def cid(self, *, optional: bool = False) -> Any:
        value = self.take("cid", str, optional=optional)
        if value is not None and not _CID.fullmatch(value):
            raise self.error("field", "cid must be 1 to 64 letters, digits, - or _.")
        return value

    def uuid(self, name: str, *, optional: bool = False) -> Any:
        value = self.take(name, str, optional=optional)
        try:
            return None if value is None else UUID(value)
        except ValueError:
            raise self.error("field", f"{name} is not an id.") from None

    def text(self) -> str:
        return self._clean(self.take("text", str))

    def system(self) -> str | None:
        """None: not given; empty: none."""
        value = self.take("system", str, optional=True)
        return self._clean(value, MAX_SYSTEM).strip() if value and not is_blank(value) else value and ""

    def adapter(self, name: str = "adapter") -> str | None:
        value = self.take(name, str, optional=True)
        if value and not _ADAPTER.fullmatch(value):
            raise self.error("field", f"{name} must be a run and a training, as in demo/5_seed0.")
        return value

    def given(self) -> str:
        value = self.take("given", str, optional=True)
        # An answer may be longer than a question.
        return self._clean(value, 4 * MAX_TEXT) if value else ""

    def _clean(self, text: str, most: int = MAX_TEXT) -> str:
        try:
            return clean_text(text, most)
        except FrameError as error:
            raise self.error(error.code, str(error)) from None

    def target(self) -> Literal["adapter", "base", "both"] | None:
        value = self.take("target", str, optional=True)
        if value is not None and value not in TARGETS:
            raise self.error("field", f"target must be one of {', '.join(TARGETS)}.")
        return value

    def settings(self) -> dict[str, Any] | None:
        given = self.take("settings", dict, optional=True)
        return None if given is None else self.checked(given)

    def checked(self, given: dict[str, Any]) -> dict[str, Any]:
        settings, problems = checked_settings(given)
        if problems:
            raise self.error("settings", " ".join(problems))
        return settings

    def finish(self) -> None:
        self._raw.pop("type", None)
        if self._raw:
            raise self.error("field", f"{_short(min(self._raw))!r} is not a field of this frame.")


def _hello(fields: _Fields) -> Hello:
    version = fields.take("v", int)
    if version != VERSION:
        raise fields.error("version", _("The server uses version %(v)d: reload the page.") % {"v": VERSION})
    cursors = fields.take("cursors", dict, optional=True) or {}
    if len(cursors) > MAX_CURSORS:
        raise fields.error("field", f"At most {MAX_CURSORS} cursors.")
    known: dict[str, str] = {}
    for gid, cursor in cursors.items():
        try:
            found = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
            # Redis refuses larger numbers, and with them the whole read that this would be a part of.
            if found is None or any(int(part) >= 2**64 for part in found.groups()):
                raise ValueError
            known[str(UUID(gid))] = cursor
        except ValueError:
            raise fields.error("field", "A cursor is an answer's id with <number>-<number>.") from None
    since = fields.take("since", (int, float), optional=True) or 0
    if not 0 <= since <= LAST_SECOND:
        raise fields.error("field", "since is not a time of the server.")
    return Hello(
        conversation=fields.uuid("conversation", optional=True),
        cursors=known,
        since=float(since),
        language=fields.take("language", str, optional=True) or "",
        user=fields.take("user", str, optional=True) or "",
    )


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
