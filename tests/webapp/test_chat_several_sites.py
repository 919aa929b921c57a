"""Two sites with a worker each, on one PostgreSQL and one Redis, behind the nginx of webapp/README.md with TLS."""

import asyncio
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import httpx
import psycopg
import pytest
from chat_parts import Valkey
from chat_stack import PROMPT, ROOT, TOKENS, Browser, Shown, Stack, free_port
from websockets.exceptions import InvalidStatus

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda folder: float(folder.parent.name))
LACKING = [*([] if POSTGRES else ["PostgreSQL"]), *(name for name in ("nginx", "openssl") if not shutil.which(name))]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"lacks {' and '.join(LACKING)}: install Debian's packages"),
]
NAME, PASSWORD = "sari", "pandan-wangi-7"


class Postgres:
    """A server of our own on a unix socket, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # It refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        self.url = f"postgres://klepon@{str(folder).replace('/', '%2F')}/postgres"
        made = [POSTGRES / "initdb", "-D", folder / "data", "-A", "trust", "-U", "klepon", "-E", "UTF8", "--no-sync"]
        subprocess.run(made, user=self._user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        self.start()

    def start(self) -> None:
        command = [POSTGRES / "postgres", "-D", self._folder / "data", "-k", self._folder, "-c", "listen_addresses="]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(command, user=self._user, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                return psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """As a crash: what its clients are told is that the connection is gone."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)


class Nginx:
    """The configuration of the README, with the paths and ports of this test."""

    def __init__(self, folder: Path, sites: list[int]) -> None:
        self.port, self.sites = free_port(), sites
        self.origin = f"https://localhost:{self.port}"
        key, certificate = folder / "klepon.key", folder / "klepon.pem"
        asked = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        asked += ["-subj", "/CN=localhost", "-days", "2", "-keyout", key, "-out", certificate]
        subprocess.run(asked, check=True, stderr=subprocess.DEVNULL)
        [block] = re.findall(r"```nginx\n(.*?)```", (ROOT / "webapp" / "README.md").read_text(), re.DOTALL)
        for old, new in {
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "/etc/ssl/klepon.pem": str(certificate),
            "/etc/ssl/klepon.key": str(key),
            "127.0.0.1:8000": f"127.0.0.1:{sites[0]}",
            "127.0.0.1:8001": f"127.0.0.1:{sites[1]}",
        }.items():
            assert old in block, old
            block = block.replace(old, new)
        own = f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}"
        (folder / "nginx.conf").write_text(f"{own} http {{ access_log off; {block} }}")
        self._process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"])
        self.tls = ssl.create_default_context(cafile=str(certificate))

    def browser(self, cookie: str) -> Browser:
        return Browser(f"wss://localhost:{self.port}/ws", self.origin, cookie, self.tls)

    def caller(self, address: str = "127.0.0.1") -> httpx.Client:
        """Somebody who calls from that address."""
        transport = httpx.HTTPTransport(verify=self.tls, local_address=address)
        return httpx.Client(base_url=self.origin, transport=transport, timeout=30, headers={"Referer": self.origin})

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope="module")
def postgres():
    # Not pytest's folder: others may not enter it, and a socket's path has at most 107 letters.
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        made = Postgres(Path(folder))
        yield made
        made.kill()


@pytest.fixture(scope="module")
def valkey():
    with Valkey() as server:
        yield server


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    made = Nginx(tmp_path_factory.mktemp("nginx"), [free_port(), free_port()])
    yield made
    made.end()


@pytest.fixture(scope="module")
def sites(model, postgres, valkey, nginx, tmp_path_factory):
    """Both sites, at the ports that nginx knows."""
    shared = {
        "DATABASE_URL": postgres.url,
        "REDIS_URL": valkey.url,
        "SECRET_KEY": uuid.uuid4().hex * 2,
        "KLEPON_ORIGINS": nginx.origin,
        "KLEPON_PROXIES": "127.0.0.1",
    }
    folder = tmp_path_factory.mktemp("chat")
    made = [Stack(folder, *model, variables=shared, port=port) for port in nginx.sites]
    yield made
    for site in made:
        site.end()


@pytest.fixture(scope="module")
def cookie(sites):
    return sites[0].cookies(1)[0]


def settled(postgres: Postgres, gid: str) -> tuple[str, str]:
    """Text and finish of an answer, as soon as the database says that it has ended."""
    deadline = time.monotonic() + 300
    while True:
        with psycopg.connect(postgres.url) as database:
            asked = "SELECT text, finish FROM chat_message WHERE id = %s AND state = 'ended'"
            if found := database.execute(asked, [uuid.UUID(gid)]).fetchone():
                return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_answer_that_is_asked_for_at_one_site_is_followed_at_the_other(sites, nginx, postgres, cookie, expected):
    async def ask() -> tuple[str, str, str]:
        one, other = (Browser(f"ws://127.0.0.1:{site.port}/ws", nginx.origin, cookie) for site in sites)
        gid = await (await one.open()).ask(PROMPT, TOKENS)
        await one.until(gid, lambda shown: shown.events > 4)
        other.conversation, other.shown[gid] = one.conversation, Shown()
        await other.open()
        told = [(await browser.follow(gid)).text for browser in (one, other)]
        await one.close()
        await other.close()
        return *told, settled(postgres, gid)[0]

    assert asyncio.run(ask()) == (expected,) * 3


@pytest.mark.parametrize("part", ["klepon.asgi", "-m worker", "finalize", "PostgreSQL", "Redis"])
def test_a_part_that_dies_at_both_sites_in_mid_answer_costs_nothing(
    sites, nginx, postgres, valkey, cookie, expected, part
):
    async def ask() -> tuple[Shown, str, str]:
        browser = await nginx.browser(cookie).open()
        gid = await browser.ask(PROMPT, TOKENS)
        await browser.until(gid, lambda shown: shown.events > 4)
        if part in ("PostgreSQL", "Redis"):
            server = postgres if part == "PostgreSQL" else valkey
            server.kill()
            await asyncio.sleep(1)
            server.start()
        else:
            killed = [process for site in sites for process in site.children(part)]
            assert len(killed) >= len(sites)
            for process in killed:
                process.kill()
        shown = await browser.follow(gid)
        await browser.close()
        return shown, *await asyncio.to_thread(settled, postgres, gid)

    shown, text, finish = asyncio.run(ask())
    assert shown.text == text == expected
    assert shown.doubled == 0
    assert (shown.end["finish"], finish) == ("length", "length")


def test_a_socket_of_another_origin_is_refused(sites, nginx, cookie):
    async def ask() -> None:
        await Browser(f"wss://localhost:{nginx.port}/ws", "https://localhost", cookie, nginx.tls).open()

    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(ask())
    assert refused.value.response.status_code == 403


def test_cookies_are_for_tls_alone_and_plain_http_is_sent_there(sites, nginx):
    with nginx.caller() as caller:
        answer = caller.get("/login")
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"]
        assert "__Host-klepon-csrf" in answer.cookies and "; Secure" in answer.headers["set-cookie"]
    plain = httpx.get(f"http://127.0.0.1:{sites[0].port}/login", headers={"Host": f"localhost:{nginx.port}"})
    assert plain.status_code == 301 and plain.headers["location"].startswith("https://")


def test_the_lock_of_the_log_in_counts_callers_over_both_sites(sites, nginx):
    """And none is known by an address that it claims for itself."""
    made = f"from django.contrib.auth.models import User; User.objects.create_user({NAME!r}, password={PASSWORD!r})"
    argv = [sys.executable, "webapp/manage.py", "shell", "-c", made]
    subprocess.run(argv, cwd=ROOT, env=sites[0].environment, check=True, capture_output=True)

    def tries(caller: httpx.Client, *passwords: str) -> list[int]:
        # One form for all: nginx asks the sites in turns, and each of them has to have its share of the tries.
        token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', caller.get("/login").text)[1]
        form = {"username": NAME, "csrfmiddlewaretoken": token}
        return [
            caller.post("/login", data=form | {"password": one}, headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code
            for n, one in enumerate(passwords)
        ]

    with nginx.caller() as caller, nginx.caller("127.0.0.2") as elsewhere:
        assert tries(caller, "x0", "x1", "x2", "x3", "x4", PASSWORD) == [200] * 5 + [429]
        assert tries(elsewhere, PASSWORD) == [302]


def test_when_one_site_is_gone_for_good_the_other_takes_over(sites, nginx, postgres, cookie, expected):
    """Also an answer that its worker was writing."""

    async def ask() -> tuple[Shown, str, str]:
        browser = await nginx.browser(cookie).open()
        gid = await browser.ask(PROMPT, TOKENS)
        shown = await browser.until(gid, lambda shown: shown.events > 4)
        [writing] = [site for site in sites if any(shown.worker in line for line in site.said)]
        for process in [writing.process, *writing.children("")]:
            process.kill()
        shown = await browser.follow(gid)
        await browser.close()
        return shown, *await asyncio.to_thread(settled, postgres, gid)

    shown, text, _ = asyncio.run(ask())
    assert shown.text == text == expected
