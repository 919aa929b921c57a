"""The supervisor with a real Redis and tiny programs in the place of the others; each test runs it as a process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import redis
from safetensors.numpy import save_file
from serve.supervisor import _only_warnings
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[3]
# Runs the supervisor on stubs; `how.json` says what each of them is to do.
DRIVER = """\
import asyncio, json, sys
from pathlib import Path
from serve import supervisor
from serve.settings import Settings

folder = Path(sys.argv[1])
how = json.loads((folder / "how.json").read_text())


def commands(descriptor):
    stub = [sys.executable, str(folder / "stub.py"), str(folder)]
    found = {role: [*stub, role, str(descriptor), how.get(role, "")] for role in
             ("migrate", "static", "worker", "finalizer", "site")}
    if how.get("site") == "uvicorn":
        found["site"] = supervisor.commands(descriptor)["site"]
        found["site"][found["site"].index("klepon.asgi:application")] = "app:application"
    return found


settings = Settings(**{k: Path(v) if k in ("adapter", "state") else v for k, v in how["settings"].items()})
try:
    asyncio.run(supervisor.serve(settings, commands))
except supervisor.CannotRunError as error:
    sys.exit(f"error: {error}")
"""
STUB = """\
import os, signal, socket, sys, threading, time
from pathlib import Path

folder, role, descriptor, how = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]


def note(what):
    with open(folder / "events.txt", "a") as log:
        log.write(f"{role} {what} {os.getpid()}\\n")


def end(*_):
    if how == "stubborn":
        return
    if role == "worker":
        import redis
        what = "ended with redis" if redis.Redis.from_url(os.environ["REDIS_URL"], protocol=2).ping() else ""
    else:
        what = "ended"
    note(what)
    os._exit(0)


signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, lambda *_: note("interrupted"))
note("started")
if how == "fails":
    sys.exit("no such table")
if how == "refuses":
    print("worker: the adapter cannot be loaded")
    sys.exit(2)
if role in ("migrate", "static") and how != "sleeps":
    sys.exit(0)
if role == "site":
    listener = socket.socket(fileno=descriptor)
    while how != "silent":
        connection, _ = listener.accept()
        connection.recv(4096)
        status = b"200 OK" if not (folder / "unready").exists() else b"503 Later"
        connection.sendall(b"HTTP/1.1 " + status + b"\\r\\nContent-Length: 0\\r\\n\\r\\n")
        connection.close()
while True:
    time.sleep(600)
"""
APP = """\
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["client"][0]})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
"""


class App:
    """A supervisor with its children, in a folder of its own."""

    def __init__(self, folder: Path, how: dict[str, str], **settings: object) -> None:
        self.folder, self.state = folder, folder / "state"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        adapter = folder / "adapter"
        adapter.mkdir(exist_ok=True)
        (adapter / "adapter_config.json").write_text("{}")
        halves = {f"base_model.model.q_proj.lora_{half}.weight": np.ones((2, 2)) for half in "AB"}
        save_file(halves, adapter / "adapter_model.safetensors")
        (adapter / "klepon.json").write_text('{"chat_template_sha256": "0"}')
        (folder / "driver.py").write_text(DRIVER)
        (folder / "stub.py").write_text(STUB)
        (folder / "app.py").write_text(APP)
        chosen = {"adapter": str(adapter), "state": str(self.state), "port": self.port} | settings
        self.port, self.workers = chosen["port"], chosen.get("workers", 1)
        (folder / "how.json").write_text(json.dumps(how | {"settings": chosen}))
        self.lines: list[str] = []
        self._grew = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "driver.py", str(folder)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'webapp'}{os.pathsep}{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._grew:
                self.lines.append(line.rstrip("\n"))
                self._grew.notify_all()

    def until(self, text: str, times: int = 1) -> None:
        with self._grew:
            found = self._grew.wait_for(lambda: sum(text in line for line in self.lines) >= times, timeout=60)
        assert found, (text, self.lines)

    def events(self) -> list[str]:
        """What the stubs did, such as `worker started`."""
        path = self.folder / "events.txt"
        return [line.rpartition(" ")[0] for line in path.read_text().splitlines()] if path.exists() else []

    def until_event(self, text: str, times: int = 1) -> None:
        end = time.monotonic() + 60
        while self.events().count(text) < times:
            assert time.monotonic() < end, (text, self.events(), self.lines)
            time.sleep(0.02)

    def until_ready(self) -> None:
        """The site may be so before the others have begun."""
        self.until("is ready")
        self.until_event("worker started", self.workers)
        self.until_event("finalizer started")

    def pid(self, role: str) -> int:
        """The process of the newest stub of that role."""
        lines = (self.folder / "events.txt").read_text().splitlines()
        return int(next(line for line in reversed(lines) if line.startswith(f"{role} started")).split()[-1])

    def family(self) -> list[psutil.Process]:
        """The supervisor, and all that it started."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def redis(self) -> psutil.Process:
        """The server."""
        return next(process for process in self.family() if process.name() in ("redis-server", "valkey-server"))

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(60)
        self._reader.join(60)
        return status

    def left(self) -> list[str]:
        """Sockets and pid files in the chat's folder."""
        return [path.name for path in self.state.rglob("*") if path.suffix in (".sock", ".pid") or path.is_socket()]

    def port_is_free(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return probe.connect_ex(("127.0.0.1", self.port)) != 0


@pytest.fixture
def start(tmp_path) -> Iterator:
    """Starts apps, and leaves nothing of them behind."""
    apps: list[App] = []

    def start(how: dict[str, str] | None = None, **settings: object) -> App:
        apps.append(App(tmp_path, how or {}, **settings))
        return apps[-1]

    yield start
    for app in apps:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in app.family()[::-1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        app.wait()


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them end, within what the guard takes."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
            return True
        time.sleep(0.05)
    return False


def test_one_interrupt_ends_all_in_order_and_leaves_nothing(start):
    app = start()
    app.until_ready()
    family = app.family()
    assert len(family) == 6, "supervisor, guard, Redis, worker, finalizer, site"
    assert app.end() == 0
    assert app.events()[-3:] == ["site ended", "worker ended with redis", "finalizer ended"]
    assert "interrupted" not in " ".join(app.events())
    assert gone(family)
    assert app.left() == []
    assert app.port_is_free()


def test_it_tells_the_address_once_when_all_answers(start, tmp_path):
    (tmp_path / "unready").touch()
    app = start()
    app.until_event("site started")
    assert not any("is ready" in line for line in app.lines)
    (tmp_path / "unready").unlink()
    app.until_ready()
    assert [line for line in app.lines if "ready" in line] == [
        f"     chat | http://127.0.0.1:{app.port} is ready; Ctrl-C stops it"
    ]
    assert app.end(signal.SIGTERM) == 0
    assert not any("\033" in line for line in app.lines), "no colours where nobody looks"


def test_the_site_starts_after_the_database_is_migrated(start):
    app = start()
    app.until_ready()
    events = app.events()
    assert max(events.index("migrate started"), events.index("static started")) < events.index("site started")
    app.end()


@pytest.mark.parametrize("role", ["site", "worker", "finalizer"])
def test_a_child_that_is_killed_is_started_again(start, role):
    app = start()
    app.until_ready()
    os.kill(app.pid(role), signal.SIGKILL)
    app.until_event(f"{role} started", 2)
    assert any(f"{role} | was killed by SIGKILL; restarting in 0.5 s" in line for line in app.lines)
    urllib.request.urlopen(f"http://127.0.0.1:{app.port}/", timeout=20).close()
    assert app.end() == 0


def test_redis_is_started_again_with_the_same_address_and_data(start):
    app = start()
    app.until_ready()
    client = redis.Redis.from_url(psutil.Process(app.pid("worker")).environ()["REDIS_URL"], protocol=2)
    client.set("kept", "yes")
    app.redis().kill()
    app.until("redis | was killed by SIGKILL; restarting")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(redis.RedisError):
            assert client.get("kept") == b"yes"
            break
    else:
        pytest.fail("Redis is not back")
    assert app.end() == 0
    assert "worker ended with redis" in app.events()


def test_whoever_connects_while_the_site_is_started_again_waits(start):
    app = start()
    app.until_ready()
    os.kill(app.pid("site"), signal.SIGKILL)
    # Until it is gone, it may still take a connection with it.
    app.until("site | was killed by SIGKILL")
    with urllib.request.urlopen(f"http://127.0.0.1:{app.port}/", timeout=30) as answer:
        assert answer.status == 200
    app.end()


def test_a_second_interrupt_ends_what_will_not(start):
    app = start({"worker": "stubborn"})
    app.until_ready()
    family = app.family()
    app.process.send_signal(signal.SIGINT)
    app.until_event("site ended")
    app.process.send_signal(signal.SIGINT)
    assert app.wait() == 0
    assert gone(family)
    assert app.left() == []


@pytest.mark.parametrize("role", ["migrate", "site"])
def test_an_interrupt_while_all_is_starting_ends_all(start, role):
    app = start({role: "sleeps" if role == "migrate" else "silent"})
    app.until_event(f"{role} started")
    family = app.family()
    assert app.end() == 0
    assert gone(family)
    assert app.left() == []


def test_a_supervisor_that_is_killed_leaves_nothing(start):
    app = start()
    app.until_ready()
    family = app.family()
    assert app.end(signal.SIGKILL) == -signal.SIGKILL
    assert gone(family)
    assert app.left() == []
    assert app.port_is_free()
    assert {"site ended", "finalizer ended"} <= set(app.events())


def test_after_a_killed_supervisor_the_next_starts(start):
    app = start()
    app.until_ready()
    family = app.family()
    app.end(signal.SIGKILL)
    assert gone(family)
    again = start(port=app.port)
    again.until_ready()
    assert again.end() == 0


def test_several_workers_run_side_by_side_and_end_together(start):
    app = start(workers=3)
    app.until_ready()
    assert app.events().count("worker started") == 3
    os.kill(app.pid("worker"), signal.SIGKILL)
    app.until("was killed by SIGKILL")
    assert any(line.startswith(" worker-") for line in app.lines), "they are told apart"
    app.until_event("worker started", 4)
    assert app.end() == 0
    assert app.events()[-4:] == ["worker ended with redis"] * 3 + ["finalizer ended"]


def test_a_redis_that_is_named_is_used_and_left_alone(start, tmp_path):
    from serve import redis_server

    server, data = redis_server.find(), tmp_path / "theirs"
    data.mkdir()
    planned = redis_server.plan(data)
    process = subprocess.Popen([str(server.path), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdin.write(planned.config)
        process.stdin.close()
        while redis_server.READY not in process.stdout.readline():
            assert process.poll() is None
        app = start(redis_url=planned.url)
        app.until_ready()
        assert len(app.family()) == 5
        assert app.end() == 0
        assert process.poll() is None
        assert "worker ended with redis" in app.events()
        assert not (app.state / "redis").exists()
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def refused(app: App) -> str:
    assert app.wait() == 1
    assert app.events() == []
    assert len(app.lines) == 1, app.lines
    return app.lines[0]


def test_a_port_that_is_taken_is_one_sentence(start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(start(port=port))
    assert said.startswith(f"error: port {port} is taken")
    assert said.endswith("stop that, or choose another with PORT")


def test_an_adapter_that_is_not_there_is_one_sentence(start, tmp_path):
    assert refused(start(adapter=str(tmp_path / "none"))) == (
        f"error: no adapter in {tmp_path / 'none'}; run `make report` first, or set ADAPTER to an adapter's folder"
    )


def test_the_world_is_not_let_in_without_accounts(start):
    said = refused(start(host="0.0.0.0"))
    assert said == (
        "error: KLEPON_HOST=0.0.0.0 would let everybody in without a log-in; "
        "set KLEPON_ACCOUNTS=1, so that people log in, or leave KLEPON_HOST at 127.0.0.1"
    )


def test_with_accounts_the_world_is_let_in(start):
    app = start(host="0.0.0.0", accounts=True)
    app.until(f"http://127.0.0.1:{app.port} is ready")
    assert app.end() == 0


def test_a_redis_that_does_not_answer_is_one_sentence_without_its_password(start):
    said = refused(start(redis_url="redis://me:secret@127.0.0.1:1/0"))
    assert said.startswith("error: REDIS_URL='redis://127.0.0.1:1/0' does not answer")
    assert "secret" not in said


def test_a_folder_that_cannot_be_made_is_one_sentence(start, tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(start(state=str(tmp_path / "file" / "state")))


def test_two_apps_do_not_share_a_folder(start, tmp_path):
    app = start()
    app.until_ready()
    other = tmp_path / "other"
    other.mkdir()
    second = App(other, {}, state=str(app.state))
    assert "another chat app is running on" in refused(second)
    assert app.end() == 0


def test_a_worker_that_cannot_run_as_it_is_set_up_ends_all_with_its_sentence(start):
    # With a site that answered before the worker refused, it would be ready.
    app = start({"worker": "refuses", "site": "silent"})
    assert app.wait() == 1
    assert app.lines[-1] == "error: the worker cannot run as it is set up: see above"
    assert sum("worker: the adapter cannot be loaded" in line for line in app.lines) == 1
    assert not any("restarting" in line for line in app.lines)


def test_an_engine_url_that_is_none_is_one_sentence(start):
    assert refused(start(engine_url="foo")) == (
        "error: ENGINE_URL='foo' is no address of a server; write it as http://host:port/v1"
    )


def test_a_failing_migration_is_told_and_ends_all(start):
    app = start({"migrate": "fails"})
    assert app.wait() == 1
    assert "  migrate | no such table" in app.lines
    assert app.lines[-1] == f"error: migrate failed on {app.state}: see above"
    assert app.left() == []


def test_a_redis_that_cannot_read_its_data_is_told_and_ends_all(start, tmp_path):
    (tmp_path / "state/redis/appendonlydir").mkdir(parents=True)
    (tmp_path / "state/redis/appendonlydir/appendonly.aof.manifest").write_text("nonsense\n")
    app = start()
    assert app.wait() == 1
    assert any(line.startswith("    redis |") for line in app.lines)
    assert "does not start on" in app.lines[-1]


def test_the_real_server_takes_the_socket_and_closes_with_1012(start):
    app = start({"site": "uvicorn"})
    app.until_ready()
    with connect(f"ws://127.0.0.1:{app.port}/ws", compression=None) as socket_:
        assert socket_.recv() == "127.0.0.1", "the site sees who connects"
        app.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            socket_.recv(timeout=20)
    assert closed.value.rcvd.code == 1012
    assert app.wait() == 0


@pytest.mark.parametrize(("proxies", "seen"), [("", "127.0.0.1"), ("127.0.0.1", "203.0.113.9")])
def test_forwarded_addresses_are_believed_only_from_proxies_that_are_named(start, proxies, seen):
    app = start({"site": "uvicorn"}, proxies=proxies)
    app.until_ready()
    sent = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}
    with connect(f"ws://127.0.0.1:{app.port}/ws", compression=None, additional_headers=sent) as socket_:
        assert socket_.recv() == seen
    assert app.end() == 0


def test_https_without_a_named_proxy_is_one_sentence(start):
    said = refused(start(accounts=True, origins="https://chat.example.org"))
    assert said == (
        "error: KLEPON_ORIGINS is https, so a proxy stands before the site, but none is named; "
        "name its address in KLEPON_PROXIES, such as 127.0.0.1 where it is on this machine"
    )


def test_of_redis_only_what_somebody_should_know_is_told(capsys):
    for line in (
        "4242:M 23 Nov 2026 08:10:00.123 * Ready to accept connections unix",
        "4242:M 23 Nov 2026 08:10:00.123 # WARNING Memory overcommit must be enabled!",
        "4242:M 23 Nov 2026 08:10:00.123 # Error writing to the AOF file: No space left on device",
        "*** FATAL CONFIG FILE ERROR (Version 9.1.2) ***",
        "4242:signal-handler (1763885400) Received SIGTERM scheduling shutdown...",
    ):
        _only_warnings("redis", line)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in said] == ["device", "***"]
