"""The Lua scripts. Each call carries its script's whole text: a kilobyte, and nothing to load anew after a restart."""

from pathlib import Path

_FOLDER = Path(__file__).parent / "lua"

ADMIT, BEAT, CANCEL, CLAIM, RECOVER, RELEASE, WRITE = (
    (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
    for name in ("admit", "beat", "cancel", "claim", "recover", "release", "write")
)

#: How long an ended generation can still be read.
KEEP_MS = 3_600_000
