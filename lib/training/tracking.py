"""Who else is told of a training's losses: the tracker that TRACKER names, by the trainer's own `report_to`.

None is installed with this project. Whatever they write is on this machine, in artifacts/<run>/trackers, unless the
tracker's own variables say otherwise.
"""

import importlib.util
import os
import sys
from typing import Any

from lib.config import Config, ConfigError, nearest

TRACKERS = ("tensorboard", "trackio", "wandb")


def chosen() -> str:
    """The tracker that TRACKER names; empty for none.

    Raises:
        ConfigError: if it is unknown, or not installed.
    """
    name = os.environ.get("TRACKER", "")
    if name and name not in TRACKERS:
        raise ConfigError(
            f"no tracker {name!r}{nearest(name, TRACKERS)}; choose TRACKER from: {', '.join(TRACKERS)}; empty for none"
        )
    if name and importlib.util.find_spec(name) is None:
        raise ConfigError(f"TRACKER={name}: it is not installed. Install it: {sys.executable} -m pip install {name}")
    return name


def arguments(config: Config) -> dict[str, Any]:
    """The trainer's arguments that make it report one training to the chosen tracker.

    Raises:
        ConfigError: as `chosen`.
    """
    name = chosen()
    if not name:
        return {"report_to": "none"}
    folder = config.paths.trackers
    defaults = {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(folder / name / config.name)},
        "trackio": {"TRACKIO_DIR": str(folder / name)},
        # It makes a folder `wandb` of its own.
        "wandb": {"WANDB_DIR": str(folder), "WANDB_PROJECT": "klepon", "WANDB_MODE": "offline"},
    }[name]
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update({key: os.environ.get(key, value) for key, value in defaults.items()})
    return {"report_to": name, "project": "klepon", "run_name": f"{config.run} {config.name}"}
