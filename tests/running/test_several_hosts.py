"""A sweep on several hosts: network namespaces of this machine, each with an address and a Ray of its own.

They share its file system, as the machines of a cluster must share the project's folder. Needs root, iproute2 and Ray.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from test_cluster import finish, made_of, until
from test_makefile import Graph, another_iteration

pytestmark = pytest.mark.slow

HELD = "3_training_3_seed0"
PORT = 6379
#: Of its network: a thousandth of what is usual.
SLOW = ("tbf", "rate", "1mbit", "burst", "32kbit", "latency", "400ms")


class Hosts:
    """Three hosts on one network; Ray's head is on the first, which has no core to give."""

    names = ("klepon1", "klepon2", "klepon3")

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary

    def up(self) -> None:
        ip("link", "add", "klepon0", "type", "bridge")
        ip("link", "set", "klepon0", "up")
        for name in self.names:
            ip("netns", "add", name)
            ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{name}v", "master", "klepon0", "up")
            ip("-n", name, "addr", "add", f"{address(name)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                ip("-n", name, "link", "set", device, "up")

    def down(self) -> None:
        for name in self.names:
            self.lose(name)
            # A host's end takes its cable along, but later.
            for command in (("link", "del", f"{name}v"), ("netns", "del", name)):
                subprocess.run(["ip", *command], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", "klepon0"], check=False, capture_output=True)

    def start_ray(self, name: str) -> None:
        """`ray start`, as the README has it."""
        first = name == self.names[0]
        role = ["--head", f"--port={PORT}", f"--temp-dir={self.temporary}"] if first else [f"--address={self.head}"]
        if first:
            role += ["--include-dashboard=false"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, f"--node-ip-address={address(name)}"]
        subprocess.run(
            [*on(name), *command, f"--num-cpus={0 if first else 1}", f"--object-store-memory={100 * 2**20}"],
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
            check=True,
            capture_output=True,
            timeout=200,
        )

    @property
    def head(self) -> str:
        return f"{address(self.names[0])}:{PORT}"

    def processes(self, name: str) -> set[int]:
        listed = subprocess.run(["ip", "netns", "pids", name], check=False, capture_output=True, text=True)
        return {int(pid) for pid in listed.stdout.split()}

    def lose(self, name: str) -> None:
        """The host and all that runs on it are gone."""
        for pid in self.processes(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()

    def cut(self, name: str) -> None:
        """Nothing reaches the host any more, and nobody is told."""
        ip("link", "set", f"{name}v", "down")

    def mend(self, name: str) -> None:
        ip("link", "set", f"{name}v", "up")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def on(name: str) -> tuple[str, ...]:
    """What a command begins with that runs on a host."""
    return ("ip", "netns", "exec", name)


def address(name: str) -> str:
    return f"10.77.41.{name[-1]}"


@pytest.fixture
def hosts(monkeypatch) -> Iterator[Hosts]:
    pytest.importorskip("ray", reason="Ray is not installed (requirements-ray.txt)")
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("hosts are network namespaces, which need root and iproute2")
    # A token of another Ray of this user's would close the head to the rest.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # A socket's name has at most 107 characters.
    temporary = Path("/tmp") / f"klepon_ray_{os.getpid()}"
    made = Hosts(temporary)
    made.down()
    try:
        made.up()
    except subprocess.CalledProcessError as error:
        made.down()
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    try:
        for name in made.names:
            made.start_ray(name)
        yield made
    finally:
        made.down()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def sweep(tmp_path) -> Graph:
    made = Graph(tmp_path)
    another_iteration(made)
    return made


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, bytes]:
    """What the sweep leaves without Ray."""
    made = Graph(tmp_path_factory.mktemp("plain"))
    another_iteration(made)
    made.ran("ITERATIONS=all")
    return made_of(made.folder)


def hold(sweep: Graph, hosts: Hosts) -> tuple[subprocess.Popen, str, psutil.Process]:
    """Start `make report` beside Ray's head, up to where a training is at work; return make, its host and itself."""
    (sweep.folder / "holding").write_text(HELD)
    held = sweep.folder / "held"
    make = sweep.start(f"RAY_ADDRESS={hosts.head}", "ITERATIONS=all", before=on(hosts.names[0]))

    def reached() -> bool:
        assert make.poll() is None, make.communicate()
        return held.is_file() and held.read_text().endswith(".")

    until(reached, 400)
    (sweep.folder / "holding").unlink()
    stage = psutil.Process(int(held.read_text().removesuffix(".")))
    return make, next(name for name in hosts.names if stage.pid in hosts.processes(name)), stage


def attempts(sweep: Graph, stage: str = HELD) -> int:
    return (sweep.folder / "ran.txt").read_text().split().count(stage)


def test_a_host_that_is_lost_in_mid_training_costs_that_training_s_time_and_nothing_else(hosts, sweep, plain):
    make, host, _ = hold(sweep, hosts)
    hosts.lose(host)
    status, told = finish(make)
    assert status == 0, told
    assert "restarted on" in told
    assert attempts(sweep) == 2
    assert made_of(sweep.folder) == plain
    assert sweep.ran("ITERATIONS=all") == set()


def test_a_network_that_is_cut_for_a_minute_loses_nothing(hosts, sweep, plain):
    make, host, stage = hold(sweep, hosts)
    hosts.cut(host)
    until(lambda: time.time() > stage.create_time() + 60, 100)
    hosts.mend(host)
    status, told = finish(make)
    assert status == 0, told
    # The host may have been given up in that time, or not.
    assert attempts(sweep) in (1, 2)
    assert made_of(sweep.folder) == plain


def test_a_host_that_stays_cut_off_is_given_up_and_never_works_beside_its_successor(hosts, sweep, plain):
    make, host, stage = hold(sweep, hosts)
    hosts.cut(host)
    until(lambda: attempts(sweep) == 2, 400)
    assert not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE
    status, told = finish(make)
    assert status == 0, told
    assert made_of(sweep.folder) == plain


def test_a_slow_host_delays_a_sweep_and_changes_nothing(hosts, sweep, plain):
    slow = hosts.names[1]
    subprocess.run([*on(slow), "tc", "qdisc", "add", "dev", "eth0", "root", *SLOW], check=True, capture_output=True)
    make = sweep.start(f"RAY_ADDRESS={hosts.head}", "ITERATIONS=all", before=on(hosts.names[0]))
    status, told = finish(make)
    assert status == 0, told
    assert made_of(sweep.folder) == plain


def test_where_ray_s_head_restarts_the_run_ends_and_the_next_make_goes_on(hosts, sweep, plain):
    make, _, stage = hold(sweep, hosts)
    done = set((sweep.folder / "ran.txt").read_text().split()) - {HELD}
    ours = {make.pid, *(child.pid for child in psutil.Process(make.pid).children(recursive=True))}
    for pid in hosts.processes(hosts.names[0]) - ours:
        psutil.Process(pid).kill()
    status, told = finish(make)
    assert status != 0
    psutil.wait_procs([stage], timeout=200)
    for name in hosts.names:
        hosts.lose(name)
        hosts.start_ray(name)
    (sweep.folder / "ran.txt").write_text("")
    make = sweep.start(f"RAY_ADDRESS={hosts.head}", "ITERATIONS=all", before=on(hosts.names[0]))
    status, told = finish(make)
    assert status == 0, told
    assert not done & set((sweep.folder / "ran.txt").read_text().split())
    # What the second make had still to do.
    planned = "artifacts/demo/todo"
    assert made_of(sweep.folder) | {planned: b""} == plain | {planned: b""}
