"""Children, with tiny programs in the place of real ones."""

import asyncio
import os
import signal
import sys

import psutil
import pytest
from serve import children
from serve.children import Child, Kept, Running, ending


class Lines(list):
    """A log that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.grew = asyncio.Condition()

    def __call__(self, name: str, line: str) -> None:
        self.append(f"{name}: {line}")
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._tell()))

    async def _tell(self) -> None:
        async with self.grew:
            self.grew.notify_all()

    async def until(self, text: str, times: int = 1) -> None:
        async with asyncio.timeout(30), self.grew:
            await self.grew.wait_for(lambda: sum(text in line for line in self) >= times)


def child(source: str, **given) -> Child:
    return Child("stub", [sys.executable, "-S", "-c", source], dict(os.environ), **given)


SLEEPS = "import time; print('here', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(children, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(children, "LONGEST_DELAY", 0.05)


def delays(log: Lines) -> list[str]:
    return [line.rpartition(" restarting in ")[2] for line in log if "restarting" in line]


def test_a_child_that_dies_is_started_again_later_and_later():
    async def play() -> Lines:
        log = Lines()
        kept = Kept(child("raise SystemExit(3)"), 0, log)
        await log.until("restarting", 5)
        await kept.end()
        return log

    log = asyncio.run(play())
    assert delays(log)[:5] == ["0.01 s", "0.02 s", "0.04 s", "0.05 s", "0.05 s"]
    assert log[0] == "stub: ended with exit status 3; restarting in 0.01 s"


def test_a_child_that_had_been_well_is_started_again_soon(monkeypatch):
    monkeypatch.setattr(children, "HEALTHY", 0.0)

    async def play() -> Lines:
        log = Lines()
        kept = Kept(child("pass"), 0, log)
        await log.until("restarting", 4)
        await kept.end()
        return log

    assert set(delays(asyncio.run(play()))) == {"0.01 s"}


def test_a_killed_child_is_started_again_and_its_signal_is_named():
    async def play() -> Lines:
        log = Lines()
        kept = Kept(child("import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)"), 0, log)
        await log.until("pid")
        os.kill(int(log[0].split()[-1]), signal.SIGKILL)
        await log.until("pid", 2)
        await kept.end()
        return log

    assert any("was killed by SIGKILL; restarting" in line for line in asyncio.run(play()))


def test_an_ended_child_is_not_started_again():
    async def play() -> Lines:
        log = Lines()
        kept = Kept(child(SLEEPS), 0, log)
        await log.until("here")
        await kept.end()
        return log

    assert asyncio.run(play()) == ["stub: here"]


def test_a_child_is_ended_while_it_waits_for_its_next_start(monkeypatch):
    monkeypatch.setattr(children, "FIRST_DELAY", 600.0)
    monkeypatch.setattr(children, "LONGEST_DELAY", 600.0)

    async def play() -> None:
        log = Lines()
        kept = Kept(child("pass"), 0, log)
        await log.until("restarting")
        async with asyncio.timeout(10):
            await kept.end()

    asyncio.run(play())


def test_a_child_is_ended_while_it_is_being_started():
    async def play() -> Lines:
        log = Lines()
        kept = Kept(child(SLEEPS), 0, log)
        async with asyncio.timeout(20):
            await kept.end()
        return log

    assert not any("restarting" in line for line in asyncio.run(play()))


def test_a_child_that_will_not_end_is_killed():
    async def play() -> tuple[Lines, int]:
        log = Lines()
        running = await Running.start(child(STUBBORN, patience=0.2), 0, log)
        await log.until("here")
        await running.end()
        return log, await running.wait()

    log, status = asyncio.run(play())
    assert status == -signal.SIGKILL
    assert log[-1] == "stub: did not stop within 0.2 s and was killed"


def test_a_program_that_is_not_there_is_tried_again():
    async def play() -> Lines:
        log = Lines()
        kept = Kept(Child("stub", ["./no-such-program"], {}), 0, log)
        await log.until("restarting", 2)
        await kept.end()
        return log

    assert "cannot be started" in asyncio.run(play())[0]


def test_all_output_is_passed_on_line_by_line():
    source = (
        "import sys; out = sys.stdout.buffer; out.write(b'one\\n'); out.flush(); sys.stderr.write('two\\n');"
        "out.write(b'\\xff\\xfe\\n' + b'x' * 200_000 + b'\\nlast')"
    )

    async def play() -> Lines:
        log = Lines()
        running = await Running.start(child(source), 0, log)
        await running.wait()
        return log

    log = asyncio.run(play())
    assert log[:3] == ["stub: one", "stub: two", "stub: \ufffd\ufffd"]
    assert "".join(line.removeprefix("stub: ") for line in log[3:]) == "x" * 200_000 + "last"
    assert log[-1].endswith("last")


def test_of_a_progress_bar_the_last_state_is_passed_on():
    async def play() -> Lines:
        log = Lines()
        running = await Running.start(child("print('\\r 0%\\r 50%\\r100%\\r')"), 0, log)
        await running.wait()
        return log

    assert asyncio.run(play()) == ["stub: 100%"]


def test_a_grandchild_that_holds_the_output_does_not_hide_the_end():
    source = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)']);"
        "print(p.pid)"
    )

    async def play() -> Lines:
        log = Lines()
        running = await Running.start(child(source), 0, log)
        async with asyncio.timeout(20):
            assert await running.wait() == 0
        return log

    os.kill(int(asyncio.run(play())[0].split()[-1]), signal.SIGKILL)


def test_a_child_is_ready_when_it_says_so():
    async def play() -> list[bool]:
        log = Lines()
        kept = Kept(
            child("input(); print('well'); print('all is ready now'); " + SLEEPS, given=b"\n", ready=b"ready"), 0, log
        )
        before = kept.ready.is_set()
        async with asyncio.timeout(20):
            await kept.ready.wait()
        await kept.end()
        return [before, kept.died.is_set()]

    assert asyncio.run(play()) == [False, False]


def test_a_child_reads_what_it_is_given_and_no_more():
    async def play() -> Lines:
        log = Lines()
        running = await Running.start(child("import sys; print(sys.stdin.read() + '.')", given=b"a secret"), 0, log)
        await running.wait()
        return log

    assert asyncio.run(play()) == ["stub: a secret."]


def test_no_file_stays_open_behind_a_child():
    async def play() -> tuple[int, int]:
        log, own = Lines(), psutil.Process()
        await (await Running.start(child("pass"), 0, log)).wait()
        before = own.num_fds()
        for _ in range(5):
            await (await Running.start(child("print(1)"), 0, log)).wait()
        await asyncio.sleep(0)
        return before, own.num_fds()

    before, after = asyncio.run(play())
    assert after <= before


@pytest.mark.parametrize(("status", "words"), [(0, "ended with exit status 0"), (-15, "was killed by SIGTERM")])
def test_a_status_is_told_in_words(status, words):
    assert ending(status) == words


def test_the_role_is_the_name_without_its_number():
    assert [Child(name, [], {}).role for name in ("worker", "worker-12")] == ["worker", "worker"]
