"""Where models run."""

import os
import subprocess
from functools import cache

import torch


class HardwareError(ValueError):
    """A GPU that is there and cannot be used; the message says why, and what to do."""


def device() -> torch.device:
    """The GPU if there is one, else the CPU.

    Raises:
        HardwareError: if there is a GPU that PyTorch cannot use: on the CPU, a run would take days without a word.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    # It is wanted where no GPU is to be seen.
    if os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and (gpu := _gpu_of_the_driver()):
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        raise HardwareError(
            f"nvidia-smi lists a GPU ({gpu}), and PyTorch {torch.__version__}, which {built}, cannot use it: update "
            "the driver, or install a PyTorch that fits it. CUDA_VISIBLE_DEVICES=-1 runs everything on the CPU instead"
        )
    return torch.device("cpu")


@cache
def _gpu_of_the_driver() -> str:
    """The first GPU that nvidia-smi lists, with its driver's version; empty if it lists none."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    name, _, driver = asked.stdout.partition("\n")[0].partition(", ")
    return f"{name}, driver {driver}" if driver else ""
