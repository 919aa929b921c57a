"""The app and its checks."""

from django.apps import AppConfig
from django.core.checks import register


class ChatConfig(AppConfig):
    """The chat."""

    name = "chat"

    def ready(self) -> None:
        """Register the refusals as system checks."""
        from chat.checks import check_exposure

        register(check_exposure)
