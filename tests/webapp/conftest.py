import sys
from pathlib import Path

WEBAPP = Path(__file__).resolve().parents[2] / "webapp"
if str(WEBAPP) not in sys.path:
    sys.path.insert(0, str(WEBAPP))

import pytest  # noqa: E402
from chat_parts import Site, Valkey  # noqa: E402


@pytest.fixture
def valkey():
    """A real server of this test's own, on a unix socket."""
    with Valkey() as server:
        yield server


@pytest.fixture
def site(valkey):
    """The site's side, as one browser sees it."""
    with Site(valkey.url) as made:
        yield made
