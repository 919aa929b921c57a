"""A client of the chat's socket, talking to the ASGI application in the same process."""

import asyncio
import itertools
import json
from types import TracebackType
from typing import Any

from asgiref.testing import ApplicationCommunicator

ORIGIN = "http://127.0.0.1:8000"
_cids = itertools.count()


class Socket:
    """One socket. Leaving the block closes it."""

    def __init__(
        self, *, origin: str | None = ORIGIN, cookies: str = "", client: str = "127.0.0.1", sent_for: str = ""
    ):
        from klepon.asgi import application

        headers = [(b"cookie", cookies.encode())] if cookies else []
        if sent_for:
            headers.append((b"x-forwarded-for", sent_for.encode()))
        if origin is not None:
            headers.append((b"origin", origin.encode()))
        scope = {
            "type": "websocket",
            "path": "/ws",
            "query_string": b"",
            "headers": headers,
            "subprotocols": [],
            "client": (client, 5000),
        }
        self._texts: dict[str, str] = {}
        self._ends: dict[str, dict[str, Any]] = {}
        self._inside = ApplicationCommunicator(application, scope)

    async def __aenter__(self) -> "Socket":
        assert await self.open() is None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    async def open(self) -> int | None:
        """None if the socket was accepted, else the code it was closed with."""
        await self._inside.send_input({"type": "websocket.connect"})
        answer = await self._inside.receive_output(60)
        return None if answer["type"] == "websocket.accept" else answer["code"]

    async def leave(self) -> None:
        await self._inside.send_input({"type": "websocket.disconnect", "code": 1001})
        await self._inside.wait(60)

    async def say(self, **frame: Any) -> None:
        await self.text(json.dumps(frame, ensure_ascii=False))

    async def text(self, text: str) -> None:
        await self._inside.send_input({"type": "websocket.receive", "text": text})

    async def bytes(self, data: bytes) -> None:
        await self._inside.send_input({"type": "websocket.receive", "bytes": data})

    async def next(self, seconds: float = 60) -> dict[str, Any]:
        """The next frame, or {"type": "closed", "code": ...}."""
        answer = await self._inside.receive_output(seconds)
        if answer["type"] == "websocket.close":
            return {"type": "closed", "code": answer.get("code")}
        return json.loads(answer["text"])

    async def hear(self, kind: str, seconds: float = 60) -> dict[str, Any]:
        """The next frame of this type; the status and the queue may be told of in between."""
        while True:
            frame = await self.next(seconds)
            if frame["type"] == kind:
                return frame
            assert frame["type"] in ("status", "queued"), frame

    async def hello(self, conversation: str | None = None, **more: Any) -> dict[str, Any]:
        await self.say(type="hello", v=1, conversation=conversation, **more)
        return await self.hear("ready")

    async def ask(self, text: str = "Apa kabar?", **more: Any) -> dict[str, Any]:
        """Send a text; the answer of the server, accepted or not."""
        await self.say(**({"type": "send", "cid": f"c{next(_cids)}", "text": text} | more))
        while True:
            frame = await self.next()
            if frame["type"] in ("accepted", "busy", "error"):
                return frame

    async def end_of(self, gid: str) -> tuple[str, dict[str, Any]]:
        """The text of an answer as its events since the last hello tell it, and its last event."""
        while gid not in self._ends:
            frame = await self.hear("events")
            for _, event in frame["items"]:
                if event["type"] == "end":
                    self._ends[frame["gid"]] = event
                before = "" if event["type"] in ("start", "snapshot") else self._texts.get(frame["gid"], "")
                self._texts[frame["gid"]] = before + event.get("text", "")
        return self._texts[gid], self._ends[gid]


def run(scenario: Any, seconds: float = 120) -> Any:
    """Run a coroutine to its end in an event loop of its own."""
    return asyncio.run(asyncio.wait_for(scenario, seconds))
