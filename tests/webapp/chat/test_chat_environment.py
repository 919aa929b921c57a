import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from chat.checks import refusals
from django.core.exceptions import ImproperlyConfigured
from klepon import environment

WEBAPP = Path(__file__).parents[3] / "webapp"


def manage(tmp_path, *command, **told):
    """Run a command of the site in an environment that says only this."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("KLEPON_")}
    surroundings |= {"KLEPON_CHAT": str(tmp_path), "DJANGO_SETTINGS_MODULE": "klepon.settings"} | told
    return subprocess.run(
        [sys.executable, WEBAPP / "manage.py", *command], env=surroundings, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(("value", "means"), [("1", True), ("0", False), ("", False), (None, False)])
def test_a_flag_says_yes_or_no(monkeypatch, value, means):
    monkeypatch.delenv("KLEPON_ACCOUNTS", raising=False)
    if value is not None:
        monkeypatch.setenv("KLEPON_ACCOUNTS", value)
    assert environment.flag("KLEPON_ACCOUNTS") is means


@pytest.mark.parametrize("value", ["yes", "true", "2"])
def test_a_flag_that_says_anything_else_is_an_error(monkeypatch, value):
    monkeypatch.setenv("KLEPON_ACCOUNTS", value)
    with pytest.raises(ImproperlyConfigured, match=f"KLEPON_ACCOUNTS='{value}'"):
        environment.flag("KLEPON_ACCOUNTS")


@pytest.mark.parametrize(
    ("text", "is_origin"),
    [
        ("https://Chat.Example.org", "https://chat.example.org"),
        ("https://chat.example.org:443/", "https://chat.example.org"),
        ("http://chat.example.org:80", "http://chat.example.org"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_origins_are_written_as_browsers_write_them(text, is_origin):
    assert environment.origin(text) == is_origin


@pytest.mark.parametrize(
    "text",
    ["chat.example.org", "ftp://x", "https://", "https://x/path", "https://a@b", "http://x:port", "http://[::1", "*"],
)
def test_what_is_no_origin_is_an_error(text):
    with pytest.raises(ImproperlyConfigured, match="is not an origin"):
        environment.origin(text)


def test_without_a_word_the_origins_are_those_of_this_machine():
    assert environment.origins("", 9000) == ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000"]
    assert environment.origins("https://a.id, https://b.id", 9000) == ["https://a.id", "https://b.id"]


def test_the_secret_key_is_made_once_and_is_nobody_elses_to_read(tmp_path):
    folder = tmp_path / "state"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: environment.secret_key(folder), range(8)))
    assert len(keys) == 1 and len(keys.pop()) >= 50
    assert (folder / "secret_key").stat().st_mode & 0o077 == 0
    assert [one.name for one in folder.iterdir()] == ["secret_key"]


@pytest.mark.parametrize(
    ("host", "accounts", "origins", "count"),
    [
        ("127.0.0.1", False, ["http://127.0.0.1:8000"], 0),
        ("localhost", False, ["http://127.0.0.1:8000"], 0),
        ("::1", False, ["http://[::1]:8000"], 0),
        ("0.0.0.0", True, ["https://chat.example.org"], 0),
        ("0.0.0.0", False, ["https://chat.example.org"], 1),
        ("0.0.0.0", True, ["http://127.0.0.1:8000", "http://[::1]:8000"], 1),
        ("192.168.1.7", False, ["http://localhost:8000"], 2),
        ("", False, ["https://chat.example.org"], 1),
    ],
)
def test_the_site_refuses_to_let_strangers_in(host, accounts, origins, count):
    told = SimpleNamespace(BIND_HOST=host, ACCOUNTS=accounts, ORIGINS=origins)
    assert len(refusals(told)) == count


@pytest.mark.slow
def test_the_checks_for_deployment_find_nothing_in_production(tmp_path):
    told = {"KLEPON_HOST": "0.0.0.0", "KLEPON_ACCOUNTS": "1", "KLEPON_ORIGINS": "https://chat.example.org"}
    done = manage(tmp_path, "check", "--deploy", "--fail-level", "WARNING", **told)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@pytest.mark.slow
def test_the_world_without_log_in_is_an_error_of_every_command_and_of_the_application(tmp_path):
    done = manage(tmp_path, "check", KLEPON_HOST="0.0.0.0")
    assert done.returncode == 1 and "KLEPON_ACCOUNTS=1" in done.stderr
    surroundings = os.environ | {"KLEPON_CHAT": str(tmp_path), "KLEPON_HOST": "0.0.0.0", "PYTHONPATH": str(WEBAPP)}
    started = subprocess.run(
        [sys.executable, "-c", "import klepon.asgi"], env=surroundings, capture_output=True, text=True, timeout=120
    )
    assert started.returncode == 1 and "KLEPON_ACCOUNTS=1" in started.stderr


@pytest.mark.slow
def test_the_migrations_are_those_of_the_models(tmp_path):
    done = manage(tmp_path, "makemigrations", "--check", "--dry-run")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_static_files_get_names_with_their_hash_also_inside_the_scripts(tmp_path):
    done = manage(tmp_path, "collectstatic", "--no-input", "--verbosity", "0")
    assert done.returncode == 0, done.stderr
    (script,) = (tmp_path / "static" / "chat").glob("chat.*.js")
    text = script.read_text()
    assert 'from "./tree.js"' not in text and 'from "./tree.' in text
