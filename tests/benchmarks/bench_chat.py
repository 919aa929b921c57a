"""The chat app as browsers meet it, against the same engine in a bare process.

    python tests/benchmarks/bench_chat.py [--quick] [--models demo 100M] [--only speed cuts ...] [--out CSV]

The real `python -m serve` runs with accounts, and users of this script talk to it over WebSockets as pages do. `demo`
is the demo's base model, `100M` a Llama of about 100 million random parameters; both have an adapter that changes
nothing, and neither ever ends an answer by itself, so that every answer has the length that was asked for. Answers are
greedy.

    speed      tokens/s of one user and of eight, beside the engine alone at the same batch, in turns
    first      how much later the first token comes than from the engine alone, prompt by prompt
    stop       from the stop to the last event
    cuts       a proxy cuts connections at random; what is shown in the end must be what was written
    takeover   from a worker's SIGKILL to the next token: the same one started again, and another that lives
    admission  from sending to being accepted, with 200 waiting
    idle       memory of the site for each of 2,000 sockets

A turn during which other programs took more than a tenth of the machine is told, and taken again up to twice.
"""

import argparse
import asyncio
import contextlib
import functools
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT), str(ROOT / "webapp"), str(ROOT / "tests" / "webapp")]
from chat_stack import Browser, CuttingProxy, Shown, Stack, make_model  # noqa: E402
from harness import record  # noqa: E402

PEER = "the engine in a bare process"
FOREIGN = 0.1
#: A turn of the smaller takes seconds, and so does what disturbs it.
TURNS = {"demo": 15, "100M": 9}
PROMPTS = [
    f"Tulislah {form} tentang {theme}."
    for form in ("sebuah cerita panjang", "sebuah puisi", "sebuah surat", "sebuah pantun", "penjelasan singkat")
    for theme in ("laut", "hujan di Bogor", "pasar pagi", "gunung berapi", "kereta malam", "sawah", "kota Bandung",
                  "nelayan", "kopi", "bulan purnama")
]  # fmt: skip
Row = tuple[str, str, str, str, float, str]


# --- The engine alone -------------------------------------------------------------------------------------------------


@dataclass
class Bare:
    """What the engine alone did with some prompts."""

    seconds: float
    tokens: int
    texts: list[str]
    first: float
    """Seconds to the first token of any."""


class Engine:
    """The worker's engine, in this process."""

    def __init__(self, base: Path, adapter: Path) -> None:
        from worker.transformers_engine import load_engine

        self._engine = load_engine(str(base), adapter)

    def answer(self, texts: list[str], tokens: int) -> Bare:
        """Answer prompts in one batch."""
        from wire.messages import Request, Settings, Turn

        settings = Settings(max_new_tokens=tokens, greedy=True)
        start = time.perf_counter()
        gids, first, written = [], 0.0, 0
        for text in texts:
            gids.append(uuid.uuid4().hex)
            self._engine.add(Request(gids[-1], "u", "c", (Turn("user", text),), "adapter", 0, settings), (), "")
        answers, live = dict.fromkeys(gids, ""), set(gids)
        while live:
            for step in self._engine.step():
                answers[step.gid] = step.text if step.replaces else answers[step.gid] + step.text
                written += len(step.ids)
                first = first or time.perf_counter() - start
                if step.finish:
                    live.discard(step.gid)
        return Bare(time.perf_counter() - start, written, [answers[gid] for gid in gids], first)


# --- Measuring -------------------------------------------------------------------------------------------------------


def quantile(values: list[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    return sorted(values)[max(0, min(len(values) - 1, round(share * len(values) + 0.5) - 1))]


class Load:
    """How much of the machine other programs took while the block ran, as a share of all cores."""

    def __enter__(self) -> "Load":
        self.share = 0.0
        self._start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        busy, own, cores = (after - before for after, before in zip(self._now(), self._start, strict=True))
        self.share = max(0.0, (busy - own) / max(cores, 1e-9))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        times, own = psutil.cpu_times(), 0.0
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                own += used.user + used.system
        return busy, own, time.monotonic() * (os.cpu_count() or 1)


class Bench:
    """One model, its engine alone and its stack; each method measures one thing and returns rows."""

    def __init__(self, name: str, folder: Path, quick: bool) -> None:
        self.name, self.folder, self.quick = name, folder, quick
        self.base, self.adapter = make_model(name, folder)

    @functools.cached_property
    def engine(self) -> Engine:
        engine = Engine(self.base, self.adapter)
        engine.answer(PROMPTS[:8], 8)
        return engine

    @contextlib.contextmanager
    def stack(self, workers: int = 1) -> Iterator[Stack]:
        stack = Stack(self.folder, self.base, self.adapter, workers)
        try:
            yield stack
        finally:
            stack.end()

    def row(self, metric: str, value: float, unit: str, side: str = "stack", peer: str = PEER) -> Row:
        return (f"chat, {self.name}", side, peer, metric, value, unit)

    # Tokens a second

    async def speed(self, stack: Stack) -> list[Row]:
        tokens = 64 if self.quick else 256
        cookies, rows, totals = stack.cookies(8), [], {}
        for users in (1, 8):
            await self._together(stack, cookies[:users], 8)
            ratios, speeds, bare, alike = [], [], [], []
            for turn in range(1 if self.quick else TURNS[self.name]):
                for _ in range(3):
                    with Load() as load:
                        sides = [self._together(stack, cookies[:users], tokens), self._alone(users, tokens)]
                        found = [await side for side in (sides if turn % 2 == 0 else sides[::-1])]
                    if load.share <= FOREIGN:
                        break
                    print(
                        f"{self.name}, {users} users: other programs took {load.share:.0%} of the machine", flush=True
                    )
                ours, peer = found if turn % 2 == 0 else found[::-1]
                ratios.append(ours.tokens / ours.seconds / (peer.tokens / peer.seconds))
                speeds.append(ours.tokens / ours.seconds)
                bare.append(peer.tokens / peer.seconds)
                alike += [mine == theirs for mine, theirs in zip(ours.texts, peer.texts, strict=True)]
                print(f"{self.name}, {users} users: {speeds[-1]:.1f} and bare {bare[-1]:.1f} tokens/s", flush=True)
            totals[users] = statistics.median(speeds)
            rows += [
                self.row(f"tokens/s, {users} users", totals[users], "1/s"),
                self.row(f"tokens/s, {users} users", statistics.median(bare), "1/s", side="bare"),
                self.row(f"speed ratio, {users} users", statistics.median(ratios), "x"),
                self.row(f"answers like the engine's, {users} users", sum(alike) / len(alike), "share"),
            ]
        rows.append(self.row("eight users against one", totals[8] / totals[1], "x", peer="one user"))
        return rows

    async def _together(self, stack: Stack, cookies: list[str], tokens: int) -> Bare:
        """All ask at once; until the last has its last token."""
        # Open for no longer: while the engine is alone in this process, nobody would answer the site's pings.
        browsers = [await stack.browser(cookie).open() for cookie in cookies]

        async def one(browser: Browser, text: str) -> Shown:
            gid = await browser.ask(text, tokens)
            return await browser.until(gid, lambda shown: shown.ended)

        start = time.perf_counter()
        answers = await asyncio.gather(*map(one, browsers, PROMPTS[: len(browsers)]))
        seconds = max(answer.ended or 0.0 for answer in answers) - start
        for browser in browsers:
            await browser.close()
        written = sum(answer.end["usage"]["completion_tokens"] for answer in answers)
        return Bare(seconds, written, [answer.text for answer in answers], 0.0)

    async def _alone(self, users: int, tokens: int) -> Bare:
        return self.engine.answer(PROMPTS[:users], tokens)

    # The first token

    async def first(self, stack: Stack) -> list[Row]:
        count = 16 if self.quick else 100
        browsers = [await stack.browser(cookie).open() for cookie in stack.cookies(8)]
        later, own = [], []
        for n in range(count + 2):
            text, browser = PROMPTS[n % len(PROMPTS)], browsers[n % len(browsers)]
            bare = self.engine.answer([text], 2).first
            start = time.perf_counter()
            gid = await browser.ask(text, 2)
            shown = await browser.until(gid, lambda shown: shown.ended)
            if n > 1:
                own.append(bare)
                later.append((shown.first or 0.0) - start - bare)
        for browser in browsers:
            await browser.close()
        return [
            self.row("first token, p50", 1e3 * quantile(own, 0.5), "ms", side="bare"),
            self.row("first token later by, p50", 1e3 * quantile(later, 0.5), "ms"),
            self.row("first token later by, p95", 1e3 * quantile(later, 0.95), "ms"),
        ]

    # Stopping

    async def stop(self, stack: Stack) -> list[Row]:
        browsers = [await stack.browser(cookie).open() for cookie in stack.cookies(8)]
        bare = self.engine.answer(PROMPTS[:1], 32)
        step, delays = bare.seconds / bare.tokens, []
        for n in range(10 if self.quick else 60):
            browser = browsers[n % 8]
            gid = await browser.ask(PROMPTS[n % len(PROMPTS)], 1_500)
            await browser.until(gid, lambda shown: shown.events > 4)
            start = time.perf_counter()
            await browser.stop(gid)
            shown = await browser.until(gid, lambda shown: shown.ended)
            assert shown.end["finish"] == "cancelled", shown.end
            delays.append((shown.ended or 0.0) - start)
        for browser in browsers:
            await browser.close()
        return [
            self.row("a step", 1e3 * step, "ms", side="bare"),
            self.row("stop takes, p50", 1e3 * quantile(delays, 0.5), "ms"),
            self.row("stop takes beyond a step, p95", 1e3 * (quantile(delays, 0.95) - step), "ms"),
        ]

    # Cuts

    async def cuts(self, stack: Stack) -> list[Row]:
        left, dice = (40 if self.quick else 1_000), random.Random(0)
        tokens = 300 if self.quick else 1_000
        waits: list[float] = []
        doubled = 0
        results: list[tuple[str, str, str]] = []

        async with CuttingProxy(stack.port) as proxy:

            async def one(cookie: str, offset: int) -> None:
                nonlocal left, doubled
                browser, n = await stack.browser(cookie, proxy.port).open(), offset
                while left > 0:
                    text, n = PROMPTS[n % 8], n + 4
                    gid = await browser.ask(text, tokens)
                    shown = browser.shown[gid]
                    while shown.ended is None and left > 0:
                        await asyncio.sleep(dice.uniform(0.0, 0.2))
                        if shown.ended is not None:
                            break
                        left -= 1
                        start, seen = time.perf_counter(), shown.events
                        proxy.cut(browser._socket.local_address[1])  # type: ignore[union-attr]
                        await browser.lost()
                        await browser.open()
                        await browser.until(gid, lambda shown, seen=seen: shown.events > seen)
                        waits.append(time.perf_counter() - start)
                    await browser.until(gid, lambda shown: shown.ended)
                    doubled += shown.doubled
                    results.append((text, shown.text, await stack.stored(gid)))
                await browser.close()

            await asyncio.gather(*(one(cookie, n) for n, cookie in enumerate(stack.cookies(4))))
        alone = {text: self.engine.answer([text], tokens).texts[0] for text, _, _ in results}
        wrong = sum(shown != stored for _, shown, stored in results)
        # A batch adds in another order: where two tokens are as likely, it may take the other.
        like = sum(alone[text] == stored for text, _, stored in results)
        print(
            f"{self.name}: {len(waits)} cuts in {len(results)} answers; {wrong} shown otherwise than written, "
            f"{doubled} events twice; {like} like the engine's alone"
        )
        return [
            self.row("cuts", len(waits), "1", peer="cutting proxy"),
            self.row("answers with something lost or doubled", wrong, "1", peer="cutting proxy"),
            self.row("events sent twice", doubled, "1", peer="cutting proxy"),
            self.row("resume after a cut, p50", 1e3 * quantile(waits, 0.5), "ms", peer="cutting proxy"),
            self.row("resume after a cut, p95", 1e3 * quantile(waits, 0.95), "ms", peer="cutting proxy"),
        ]

    # Takeover

    async def takeover(self, stack: Stack, label: str) -> list[Row]:
        waits, tokens = [], 1_500
        browser = await stack.browser(stack.cookies(1)[0]).open()
        for n in range(1 if self.quick else 5):
            gid = await browser.ask(PROMPTS[n], tokens)
            shown = await browser.until(gid, lambda shown: shown.events > 8)
            start = time.perf_counter()
            stack.owner(shown.worker).kill()
            # What was written before is still on its way.
            await asyncio.sleep(0.1)
            length = len(shown.text)
            await browser.until(gid, lambda shown, length=length: len(shown.text) > length or shown.ended)
            waits.append(time.perf_counter() - start)
            await browser.stop(gid)
            await browser.until(gid, lambda shown: shown.ended)
            bare = self.engine.answer([PROMPTS[n]], min(tokens, shown.end["usage"]["completion_tokens"] or 1)).texts[0]
            if not (bare.startswith(shown.text) or shown.text.startswith(bare)):
                raise SystemExit(f"{self.name}: the answer that was taken over goes on otherwise than the engine")
            await self._healthy(stack)
        await browser.close()
        return [self.row(f"takeover after SIGKILL, longest, {label}", max(waits), "s", peer="none")]

    async def _healthy(self, stack: Stack) -> None:
        """Wait until every worker is there again, and has been for so long that its next death is a first one."""
        from serve.children import HEALTHY

        count = len(list(stack.state.glob("worker-*.lock")))
        while len(workers := stack.children("-m worker")) < count:
            await asyncio.sleep(0.2)
        youngest = max(worker.create_time() for worker in workers)
        await asyncio.sleep(max(3, youngest + HEALTHY + 1 - time.time()))

    # Admission

    async def admission(self, stack: Stack) -> list[Row]:
        workers = stack.children("-m worker")
        cookies = stack.cookies(70)
        browsers = [await stack.browser(cookie).open() for cookie in cookies]
        for worker in workers:
            worker.suspend()
        try:
            # Eight went to the worker's batch before it stood still, or none; the rest wait.
            filling = [browser for browser in browsers[:50] for _ in range(4)]
            for n, browser in enumerate(filling[:198]):
                await browser.ask(PROMPTS[n % len(PROMPTS)], 16)
            delays = []
            for n in range(10 if self.quick else 200):
                browser = browsers[50 + n % 20]
                start = time.perf_counter()
                gid = await browser.ask(PROMPTS[n % len(PROMPTS)], 16)
                delays.append(time.perf_counter() - start)
                await browser.stop(gid)
                await browser.until(gid, lambda shown: shown.ended)
                # Rate limits are a minute's: twenty users stay below theirs.
                await asyncio.sleep(0.1)
        finally:
            for worker in workers:
                worker.resume()
            for browser in browsers:
                await browser.close()
        direct = await self._submitted(stack)
        return [
            self.row(
                "admission over the socket with 198 waiting, p95", 1e3 * quantile(delays, 0.95), "ms", peer="none"
            ),
            self.row("admission by the service with 199 waiting, p95", 1e3 * quantile(direct, 0.95), "ms", peer="none"),
        ]

    async def _submitted(self, stack: Stack) -> list[float]:
        """Seconds of single submits, in a queue of their own that no worker serves."""
        from wire.messages import Request, Settings, Turn
        from wire.service import PredictionService

        service = PredictionService(stack.children("-m worker")[0].environ()["REDIS_URL"], prefix="bench")
        delays = []
        for n in range(199 + (50 if self.quick else 500)):
            gid = uuid.uuid4().hex
            request = Request(gid, f"user{n}", "c", (Turn("user", PROMPTS[0]),), "adapter", 0, Settings())
            start = time.perf_counter()
            await service.submit(request, gid)
            if n >= 199:
                delays.append(time.perf_counter() - start)
                await service.cancel(gid)
        await service.close()
        return delays

    # Idle sockets

    async def idle(self, stack: Stack) -> list[Row]:
        count = 200 if self.quick else 2_000
        cookies = stack.cookies(count // 10 + 10)
        site = stack.children("klepon.asgi")[0]
        warm = [await stack.browser(cookie).open() for cookie in cookies[-10:]]
        before = site.memory_info().rss
        browsers: list[Browser] = []
        for start in range(0, count, 20):
            group = [stack.browser(cookies[n // 10]) for n in range(start, start + 20)]
            browsers += await asyncio.gather(*(browser.open() for browser in group))
        await asyncio.sleep(2)
        each = (site.memory_info().rss - before) / count
        for browser in (*warm, *browsers):
            await browser.close()
        return [self.row(f"memory of each of {count} idle sockets", each / 1024, "KiB", peer="none")]


#: What must hold, as (words of the metric, limit, whether more is better).
TARGETS = [
    ("speed ratio, 1 users", 0.97, True),
    ("speed ratio, 8 users", 0.95, True),
    ("eight users against one", 3.0, True),
    ("first token later by, p50", 15.0, False),
    ("first token later by, p95", 40.0, False),
    ("stop takes beyond a step, p95", 50.0, False),
    ("resume after a cut, p95", 200.0, False),
    ("answers with something lost or doubled", 0.0, False),
    ("events sent twice", 0.0, False),
    ("takeover after SIGKILL", 13.0, False),
    ("admission", 10.0, False),
    ("memory of each", 40.0, False),
]


def judge(rows: list[Row]) -> None:
    """Print each target that was measured, and whether it holds."""
    for name, _, _, metric, value, unit in rows:
        for words, limit, more in TARGETS:
            if metric.startswith(words):
                held = value >= limit if more else value <= limit
                sign = ">=" if more else "<="
                print(f"{'holds' if held else 'FAILS'}: {name}: {metric} = {value:.4g} {unit} ({sign} {limit:g})")


async def measure(bench: Bench, only: list[str], out: Path) -> list[Row]:
    """Everything that was asked for; each result is recorded at once."""
    rows: list[Row] = []

    async def one(what: Awaitable[list[Row]]) -> None:
        found = await what
        record(out, found)
        rows.extend(found)

    shared = [name for name in ("speed", "first", "stop", "cuts", "admission", "idle") if name in only]
    # What does not depend on the model is measured with the quicker one alone.
    if bench.name != "demo":
        shared = [name for name in shared if name not in ("admission", "idle")]
    if shared or "takeover" in only:
        with bench.stack() as stack:
            for name in shared:
                await one(getattr(bench, name)(stack))
            if "takeover" in only:
                await one(bench.takeover(stack, "the same worker"))
    if "takeover" in only and bench.name == "demo":
        with bench.stack(workers=2) as stack:
            await one(bench.takeover(stack, "another worker"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["speed", "first", "stop", "cuts", "takeover", "admission", "idle"]
    parser.add_argument("--models", nargs="+", choices=["demo", "100M"], default=["demo", "100M"])
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--corpus", help="taken for the sake of `make bench`; no corpus is read")
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--out", type=Path, default=Path("reports/bench/results.csv"))
    args = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            rows += asyncio.run(measure(Bench(name, Path(folder), args.quick), args.only, args.out))
    judge(rows)


if __name__ == "__main__":
    main()
