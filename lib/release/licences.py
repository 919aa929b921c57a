"""What the licences of base model and corpus require of anyone who passes a model on."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from lib.corpus import sources
from lib.paths import GGUF_RECORD

#: The Llama licences that ask for a name that begins with "Llama" and for the words "Built with Llama".
_LLAMA = re.compile(r"llama[-_ ]?(3\.[123])(?!\d)", re.IGNORECASE)
#: The size of the vocabulary and the scaling of positions that identify a Llama 3.2 under any name.
_LLAMA_32_VOCABULARY, _LLAMA_32_FACTOR = 128_256, 32.0


@dataclass(frozen=True)
class Licence:
    """A licence, as in the hub's metadata."""

    identifier: str
    """From the hub's list."""
    name: str
    link: str = ""
    llama: str = ""
    """The version of the Llama licence; its name and its notice are then required."""

    @property
    def notice(self) -> str:
        """The text that a Llama licence requires with every copy; empty for other licences."""
        if not self.llama:
            return ""
        return (
            f"Llama {self.llama} is licensed under the Llama {self.llama} Community License, "
            "Copyright © Meta Platforms, Inc. All Rights Reserved.\n"
        )


APACHE = Licence("apache-2.0", "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0")


def of_model(name: str, folder: Path) -> Licence:
    """The licence of a base model, which its adapter and all merged with it fall under.

    A Llama 3.2 is recognised by its name, or by its configuration, whatever the folder is called. The name is the last
    part of a path or of a hub id: what a folder above it is called says nothing. A GGUF file tells its licence.

    Args:
        name: `demo`, or the `source` of the manifest.
    """
    if name == "demo":
        return APACHE
    version = _LLAMA.search(Path(name).name)
    if version or _is_llama_32(folder):
        number = version[1] if version else "3.2"
        link = f"https://www.llama.com/llama{number.replace('.', '_')}/license/"
        return Licence(f"llama{number}", f"Llama {number} Community License", link, number)
    record = folder / GGUF_RECORD
    told = json.loads(record.read_text(encoding="utf-8"))["licence"] if record.is_file() else ""
    return APACHE if told == APACHE.identifier else Licence("other", "the licence of the base model")


def of_corpus(source: str) -> Licence:
    """The licence of a corpus, as far as this project can know it."""
    if source == "demo":
        return APACHE
    if source == "open":
        *most, last = sources.licences()
        return Licence("other", f"mixed, by source: {', '.join(most)} and {last}")
    if source.partition("@")[0] == "indonlp/cendol_collection_v2":
        return Licence(APACHE.identifier, "Apache License 2.0, as its page on the hub says", APACHE.link)
    return Licence("unknown", "that of the corpus's authors")


def _is_llama_32(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    positions = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return (
        config.get("model_type") == "llama"
        and config.get("vocab_size") == _LLAMA_32_VOCABULARY
        and positions.get("factor") == _LLAMA_32_FACTOR
    )
