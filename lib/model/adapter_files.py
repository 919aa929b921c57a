"""What is wrong with an adapter's files, read without loading a model: the chat's checks ask it before anything starts.

Importing this is quick. What gets past it is found when the adapter is loaded (`lib.model.loading`).
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

_PREFIX = "base_model.model."


def fault(adapter: Path, base: Path | None = None) -> str:
    """What is wrong, as half a sentence; empty where nothing is.

    Args:
        adapter: a PEFT folder.
        base: the folder of its base model; None where it is not here. Of one in fewer bits, shapes are not compared.
    """
    try:
        settings = _read(adapter / "adapter_config.json")
        shapes = _shapes(adapter / "adapter_model.safetensors")
        ranks = {_place(name): shape[0] for name, shape in shapes.items() if ".lora_A." in name}
        if not ranks:
            return "adapter_model.safetensors holds no LoRA matrices"
        halves = {_place(name): shape[1] for name, shape in shapes.items() if ".lora_B." in name}
        if alone := sorted(ranks.keys() ^ halves.keys()):
            return f"adapter_model.safetensors has only one of the two matrices of {alone[0]}"
        if base is None or not (base / "config.json").is_file() or "quantization_config" in _read(base / "config.json"):
            return ""
        weights: dict[str, list[int]] = {}
        for file in sorted(base.glob("*.safetensors")):
            weights |= _shapes(file)
    except (OSError, ValueError) as error:
        return str(error)
    if not weights:
        return ""
    kinds = settings.get("target_modules")
    places = {name.removesuffix(".weight") for name in weights}
    if isinstance(kinds, list):
        wanted = {place for place in places if place.rpartition(".")[2] in kinds}
        if lacking := sorted(wanted - ranks.keys()):
            return f"adapter_model.safetensors lacks the matrices of {lacking[0]}"
    for name, shape in shapes.items():
        place = _place(name)
        if place not in places:
            return f"it is another base model's: it has matrices for {place}, which this one does not have"
        side = 1 if ".lora_A." in name else 0
        have, need = shape[side], weights[f"{place}.weight"][side]
        if ".lora_" in name and have != need:
            return f"it is another base model's: {place} has a side of {have:,} there and of {need:,} here"
    return ""


def _place(name: str) -> str:
    """The layer that a matrix belongs to, as the base model names it."""
    return name.removeprefix(_PREFIX).partition(".lora_")[0].removesuffix(".weight")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged or cut short ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return found


def _shapes(path: Path) -> dict[str, list[int]]:
    """The shape of every weight in a file: its header is read, and compared with the file's size."""
    try:
        with safe_open(path, "numpy") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is damaged or cut short ({error})") from None
