import pytest
from chat_parts import Site, Valkey


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
