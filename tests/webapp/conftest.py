import pytest
from chat_parts import Site, Valkey
from chat_stack import PROMPT, TOKENS, make_model, undisturbed


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


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folders of a base model whose answers only end at their length, and of an adapter for it."""
    return make_model("demo", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def expected(model):
    """What that model answers to PROMPT."""
    return undisturbed(*model, PROMPT, TOKENS)
