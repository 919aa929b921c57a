"""A worker with the fake engine: url, name, seconds a step, batch, lease in ms."""

import signal
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "webapp"))

from chat_parts import FakeEngine, about
from wire.claims import Claims
from worker.loop import Worker
from worker.writer import Writer


def main() -> None:
    url, name, step_seconds, batch, lease_ms = sys.argv[1:]
    claims = Claims(url, name, uuid.uuid4().hex[:12], lease_ms=int(lease_ms))
    worker = Worker(FakeEngine(float(step_seconds)), Writer(claims, about(name, int(batch))))
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    signal.signal(signal.SIGINT, lambda *_: worker.stop(0.0))
    worker.run()


main()
