"""The app, its checks, and what it does when a page has been served."""

from typing import Any

from django.apps import AppConfig
from django.core.checks import register
from django.core.signals import request_finished
from django.db import connections


class ChatConfig(AppConfig):
    """The chat."""

    name = "chat"

    def ready(self) -> None:
        """Register the refusals as system checks."""
        from chat.checks import check_exposure

        register(check_exposure)
        request_finished.connect(close_connections)


def close_connections(**_: Any) -> None:
    """Close a page's connections, even those made to be kept: its thread ends, so nothing would use them again."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
