"""The site in this process for a browser, and conversations for it to show."""

import asyncio
import contextlib
import socket
import threading
from datetime import timedelta
from types import SimpleNamespace

import uvicorn
from chat.models import Conversation, Message
from django.core.management import call_command
from django.test import override_settings


@contextlib.contextmanager
def live_site(**settings):
    """A live site of hashed static files in a thread: its address, and how to tear its connections and mend them."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    hashed = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "klepon.static.HashedFiles"},
    }
    with override_settings(STORAGES=hashed, WHITENOISE_AUTOREFRESH=False, WHITENOISE_USE_FINDERS=False, **settings):
        call_command("collectstatic", interactive=False, verbosity=0)
        from channels.routing import ProtocolTypeRouter
        from chat.guards import ExactOrigin
        from chat.hub import lifespan
        from django.core.asgi import get_asgi_application
        from klepon.asgi import sockets

        here = f"http://127.0.0.1:{port}"
        ours = ExactOrigin(sockets, [here])
        loops, torn = [], threading.Event()

        async def guarded(scope, receive, send):
            if torn.is_set():
                await receive()
                await send({"type": "websocket.close"})
            else:
                await ours(scope, receive, send)

        parts = {"http": get_asgi_application(), "websocket": guarded, "lifespan": lifespan}
        server = uvicorn.Server(uvicorn.Config(ProtocolTypeRouter(parts), log_level="warning", ws_max_size=65_536))

        async def serve():
            loops.append(asyncio.get_running_loop())
            await server.serve([listener])

        def tear():
            torn.set()
            for connection in list(server.server_state.connections):
                loops[0].call_soon_threadsafe(connection.transport.abort)

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        try:
            yield SimpleNamespace(address=here, tear=tear, mend=torn.clear)
        finally:
            server.should_exit = True
            thread.join()


#: Types a few letters where the focus is: the milliseconds until each is laid out.
KEY_PRESSES = """() => [..."kata-kata yang ditulis"].map((letter) => {
    const from = performance.now();
    document.execCommand("insertText", false, letter);
    document.documentElement.getBoundingClientRect();
    return performance.now() - from;
})"""


def talk_of(user, turns):
    """A conversation of so many turns, whose last question was asked in five ways."""
    conversation = Conversation.objects.create(owner=user, title="Panjang")
    messages, parent = [], None

    def add(role, text, under, **more):
        messages.append(Message(conversation=conversation, role=role, text=text, parent=under, **more))
        return messages[-1]

    ended = {"target": "adapter", "state": "ended", "finish": "stop", "seed": 1, "model": "klepon-demo"}
    for number in range(turns // 2 - 1):
        question = add("user", f"Pertanyaan {number}?", parent)
        parent = add("assistant", f"Jawaban **{number}**.\n\n- satu\n- dua\n\n" + "kata " * 40, question, **ended)
    for number in range(5):
        add("assistant", f"Cabang {number}.", add("user", f"Terakhir, cara {number}?", parent), **ended)
    Message.objects.bulk_create(messages)
    # All at once they would have one time, and no order.
    for number, message in enumerate(messages):
        message.created += timedelta(milliseconds=number)
    Message.objects.bulk_update(messages, ["created"], batch_size=200)
    return conversation
