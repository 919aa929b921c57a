"""ASGI middleware that turns connections away before the application sees them."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from klepon.environment import is_loopback, origin

Scope = dict[str, Any]
Application = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[Any]]], Awaitable[Any]]


class ExactOrigin:
    """Lets in only sockets whose Origin is one of the site's, with scheme, host and port.

    Channels' own validator compares host names alone, and any program on another port of this machine has that.
    """

    def __init__(self, inner: Application, origins: Iterable[str]):
        self._inner = inner
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass the connection on, or close it before it is accepted: the browser sees 403."""
        given = [value for name, value in scope["headers"] if name == b"origin"]
        if len(given) == 1 and self._known(given[0].decode("latin-1")):
            await self._inner(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 4403})

    def _known(self, text: str) -> bool:
        try:
            return origin(text) in self._origins
        except ImproperlyConfigured:
            return False


class LocalOnly:
    """Lets in only what comes from this machine: without log-in, whoever connects is the local user.

    The address to bind to is checked elsewhere (chat.checks); this holds even if the server was given another.
    """

    def __init__(self, inner: Application):
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass the connection on, or answer 403. A Unix socket has no client address and is of this machine."""
        if scope["type"] == "lifespan" or _is_local(scope):
            await self._inner(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4403})
        else:
            text = b"This chat has no log-in, so it answers this machine only. KLEPON_ACCOUNTS=1 gives it accounts.\n"
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": text})


def _is_local(scope: Scope) -> bool:
    """Whether a connection comes from this machine, and not through a proxy on it for somebody elsewhere."""
    client = scope.get("client")
    passed_on = b",".join(value for name, value in scope.get("headers", ()) if name == b"x-forwarded-for")
    said = [one.strip() for one in passed_on.decode("latin-1").split(",") if one.strip()]
    # Whoever lies in the header only shuts themselves out.
    return all(is_loopback(one) for one in [client[0] if client else "", *said] if one)
