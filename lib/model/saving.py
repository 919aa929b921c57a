"""What is saved, so that programs of the time before transformers 5 read it as those after it do."""

import json
from pathlib import Path
from typing import Any

from lib.storage import write_json


def for_all_readers(folder: Path) -> None:
    """Add to a saved model's, adapter's or tokenizer's folder what earlier readers look for; later ones read the same.

    transformers 5 names a tokenizer's class TokenizersBackend and writes a list of extra special tokens: transformers 4
    refuses either. It keeps RoPE's theta and scaling in `rope_parameters` alone, and whoever looks for them where they
    were, as MLX does, computes with 10,000 and no scaling, without a word.
    """
    _rewrite(folder / "config.json", _with_rope)
    _rewrite(folder / "tokenizer_config.json", _with_known_class)


def _rewrite(path: Path, change: Any) -> None:
    if path.is_file():
        told = json.loads(path.read_text(encoding="utf-8"))
        changed = change(told)
        if changed != told:
            write_json(path, changed)


def _with_rope(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters") or {}
    # Where kinds of layers have one each, there is no earlier way to write it.
    if "rope_theta" not in rope:
        return config
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    plain = scaling.get("rope_type", "default") == "default"
    return config | {"rope_theta": rope["rope_theta"], "rope_scaling": None if plain else scaling}


def _with_known_class(config: dict[str, Any]) -> dict[str, Any]:
    changed = dict(config)
    if changed.get("tokenizer_class") == "TokenizersBackend":
        changed["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(changed.get("extra_special_tokens"), list):
        changed["additional_special_tokens"] = changed.pop("extra_special_tokens")
    return changed
