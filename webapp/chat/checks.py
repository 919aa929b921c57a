"""What the site refuses to run with."""

from typing import Any

from django.conf import LazySettings, settings
from django.core import checks
from klepon.environment import host, is_loopback


def refusals(settings: LazySettings) -> list[str]:
    """Sentences on why these settings would let strangers in; none if all is well."""
    if is_loopback(settings.BIND_HOST):
        return []
    found = []
    if not settings.ACCOUNTS:
        found.append(
            f"KLEPON_HOST={settings.BIND_HOST} would let anyone on the network read and write the local user's "
            "conversations: set KLEPON_ACCOUNTS=1, or bind to 127.0.0.1."
        )
    if all(is_loopback(host(one)) for one in settings.ORIGINS):
        found.append(
            f"KLEPON_HOST={settings.BIND_HOST}, but no browser elsewhere could use the site: set "
            "KLEPON_ORIGINS to the address it is reached at, such as https://chat.example.org."
        )
    return found


def check_exposure(app_configs: Any, **options: Any) -> list[checks.CheckMessage]:
    """The refusals, for `manage.py check` and all commands that check first."""
    return [checks.Error(text, id=f"klepon.E{number:03d}") for number, text in enumerate(refusals(settings), start=1)]
