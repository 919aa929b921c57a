"""The chat's page in Chromium: a conversation of 2,000 turns beside one of 20, and a long answer while it is written.

    python tests/benchmarks/bench_pages.py [--repeats 5] [--quick] [--out CSV]

The site runs in this process, with a service that says what it is told. Both conversations are loaded in turns, each in
a window of its own; medians. The answer is a text of 4,000 words with a table of 200 rows, sent word by word; what is
measured is the time from one frame to the next while it comes, and whether the page logs an error.

    first paint   of anything
    usable        until the last answer stands there
    key press     until a letter that is typed is laid out
    memory        of the page's process, without what it shares with others
"""

import argparse
import contextlib
import itertools
import os
import statistics
import sys
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
SHARED = [ROOT / "tests" / "webapp" / "chat", ROOT / "tests" / "webapp", ROOT / "tests", ROOT / "webapp", ROOT]
sys.path[:0] = [str(Path(__file__).resolve().parent), *map(str, SHARED)]
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
import conftest  # noqa: E402, F401 - sets Django up
from browsers import expect, launched  # noqa: E402
from chat.users import local_user  # noqa: E402
from django.core.management import call_command  # noqa: E402
from fake_service import world  # noqa: E402
from harness import record  # noqa: E402
from live import KEY_PRESSES, live_site, talk_of  # noqa: E402

PEER = "a conversation of 20 turns"
WORDS, TABLE = 4_000, 200
FRAMES = """() => {
    window.frames_ = [];
    const next = (at) => { window.frames_.push(at); requestAnimationFrame(next); };
    requestAnimationFrame(next);
}"""


def private_memory() -> float:
    """MiB of the largest page's process."""
    sizes = []
    for one in psutil.Process().children(recursive=True):
        # A page that was closed may be gone by now.
        with contextlib.suppress(psutil.NoSuchProcess):
            if "--type=renderer" in " ".join(one.cmdline()):
                sizes.append(one.memory_full_info().uss)
    return max(sizes) / 2**20


def loaded(browser, address: str, errors: list[str]) -> dict[str, float]:
    """What one load of a conversation takes: seconds but for the key press, in ms."""
    context = browser.new_context(locale="id-ID", viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(address, wait_until="commit")
    expect(page.locator(".side-answer .body").last).to_have_text("Cabang 4.")
    found = {"usable": page.evaluate("performance.now()") / 1_000}
    found["first paint"] = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1_000
    page.locator("#text").focus()
    found["key press"] = statistics.median(page.evaluate(KEY_PRESSES))
    found["memory"] = private_memory()
    context.close()
    return found


def streamed(browser, address: str, errors: list[str]) -> tuple[list[float], int]:
    """Milliseconds between frames while a long answer is written, and how many rows its table then has."""
    rows = "".join(f"| {n} | kue ke-{n} | harga {n * 7} |\n" for n in range(TABLE))
    table = f"| nomor | nama | harga |\n|---|---|---|\n{rows}"
    rest = " ".join(f"kata{n}" for n in range(WORDS - len(table.split(" "))))
    world.say, world.pause = (lambda _: f"{table}\n{rest}"), 0.004
    page = browser.new_context(locale="id-ID", viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(180_000)
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(address)
    page.locator("#text").fill("Tulislah sebuah tabel.")
    page.locator("#text").press("Enter")
    expect(page.locator(".side-answer .body table")).to_be_visible(timeout=60_000)
    page.evaluate(FRAMES)
    expect(page.locator("#send")).to_be_visible(timeout=180_000)
    times = page.evaluate("window.frames_")
    count = page.locator(".side-answer tbody tr").count()
    page.context.close()
    return [after - before for before, after in itertools.pairwise(times)], count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one load of each")
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "bench" / "results.csv")
    args = parser.parse_args()
    call_command("migrate", verbosity=0)
    errors: list[str] = []
    found: dict[int, list[dict[str, float]]] = {2_000: [], 20: []}
    talks = {turns: talk_of(local_user(), turns) for turns in found}
    with live_site() as site, launched() as browser:
        for _ in range(1 if args.quick else args.repeats):
            for turns, talk in talks.items():
                found[turns].append(loaded(browser, f"{site.address}/c/{talk.id}/", errors))
        frames, rows = streamed(browser, site.address, errors)
    units = {"first paint": "s", "usable": "s", "key press": "ms", "memory": "MiB"}
    lines = []
    for metric, unit in units.items():
        long, short = (statistics.median(one[metric] for one in found[turns]) for turns in found)
        lines += [("pages", "2,000 turns", PEER, metric, long, unit), ("pages", "20 turns", PEER, metric, short, unit)]
        lines.append(("pages", "2,000 turns", PEER, f"{metric}, ratio", long / short, "x"))
    for share in (50, 95, 100):
        at = np.percentile(frames, share)
        lines.append(("pages", "a long answer", "none", f"from frame to frame, p{share}", at, "ms"))
    lines.append(("pages", "a long answer", "none", "rows of its table", rows, "1"))
    lines.append(("pages", "all", "none", "errors that were logged", len(errors), "1"))
    record(args.out, lines)
    if errors or rows != TABLE:
        raise SystemExit(f"FAILS: {rows} rows of {TABLE}, and {errors[:3]}")


if __name__ == "__main__":
    main()
