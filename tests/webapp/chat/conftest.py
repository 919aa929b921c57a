import os
import tempfile
from pathlib import Path
from unittest import mock

import django
import pytest
from fake_service import world

# Django reads its settings once and for all in a process; the environment stays that of the other tests. It would close
# the log handlers that it finds, and absl's, which rouge_score brings, takes what pytest captures with it.
STATE = tempfile.TemporaryDirectory(prefix="klepon-chat-")
ENVIRONMENT = {"DJANGO_SETTINGS_MODULE": "site_settings", "KLEPON_CHAT": STATE.name}
with mock.patch.dict(os.environ, ENVIRONMENT), mock.patch("logging.shutdown"):
    for name in ("KLEPON_ACCOUNTS", "KLEPON_HOST", "KLEPON_PORT", "KLEPON_ORIGINS", "DATABASE_URL", "SECRET_KEY"):
        os.environ.pop(name, None)
    django.setup()
    # Django looks at the variable again when it first needs a setting of a thread.
    assert Path(django.conf.settings.STATIC_ROOT).is_relative_to(Path(STATE.name).resolve())

from chat.models import Conversation, Pair, Preferences  # noqa: E402
from chat.users import local_user  # noqa: E402
from django.core.cache import cache  # noqa: E402
from django.core.management import call_command  # noqa: E402


@pytest.fixture(scope="session")
def database():
    call_command("migrate", verbosity=0)


@pytest.fixture(autouse=True)
def fresh(database):
    """An empty database and a world in which nothing has happened."""
    from django.contrib.auth import get_user_model

    world.reset()
    yield
    for model in (Conversation, Pair, Preferences, get_user_model()):
        model.objects.all().delete()
    cache.clear()


@pytest.fixture
def user():
    return local_user()
