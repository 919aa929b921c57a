"""The ASGI application: Django for HTTP, the chat's controller for the WebSocket at /ws."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "klepon.settings")
http = get_asgi_application()

# These need the apps that the line above has loaded.
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.sessions import SessionMiddlewareStack  # noqa: E402
from chat.checks import refusals  # noqa: E402
from chat.consumers import ChatConsumer  # noqa: E402
from chat.guards import ExactOrigin, LocalOnly  # noqa: E402
from chat.hub import lifespan  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.urls import path  # noqa: E402

if problems := refusals(settings):
    raise ImproperlyConfigured(" ".join(problems))

sockets = SessionMiddlewareStack(URLRouter([path("ws", ChatConsumer.as_asgi())]))
application = ProtocolTypeRouter(
    {"http": http, "websocket": ExactOrigin(sockets, settings.ORIGINS), "lifespan": lifespan}
)
if not settings.ACCOUNTS:
    application = LocalOnly(application)
