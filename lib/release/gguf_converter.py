"""llama.cpp's own converter, called with what it cannot know of this project's models, in a process of its own:

    python -m lib.release.gguf_converter CHECKOUT MODEL OUTFILE

The converter recognises by a hash of some token ids how a tokenizer splits text into words, and knows Llama 3.2's and
SmolLM2's. It refuses a tokenizer of another vocabulary, such as the demo's, even if that splits text exactly as one of
these. Where it does, the converter is told so here.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lib.model import byte_level


def main() -> None:
    """Convert a model's folder to a GGUF file of bfloat16."""
    checkout, model, outfile = sys.argv[1:]
    # The checkout's own gguf package fits its converter.
    sys.path[:0] = [checkout, str(Path(checkout) / "gguf-py")]
    converter = importlib.import_module("convert_hf_to_gguf")
    # Newer ones have their models in a package beside them.
    places: list[Any] = [converter, sys.modules.get("conversion.base")]
    text_model = next(place.TextModel for place in places if hasattr(place, "TextModel"))
    by_hash, from_sentencepiece = text_model.get_vocab_base_pre, text_model._create_vocab_sentencepiece

    def by_hash_or_by_rule(self: Any, tokenizer: Any) -> str:
        try:
            return str(by_hash(self, tokenizer))
        except NotImplementedError:
            if cuts := byte_level.cuts_of(Tokenizer.from_file(str(Path(model) / "tokenizer.json"))):
                return cuts
            raise

    def where_there_is_one(self: Any) -> Any:
        # It would import sentencepiece, which may not be here, before it checks that there is such a model.
        if not (Path(model) / "tokenizer.model").is_file():
            raise FileNotFoundError("tokenizer.model")
        return from_sentencepiece(self)

    text_model.get_vocab_base_pre = by_hash_or_by_rule
    text_model._create_vocab_sentencepiece = where_there_is_one
    sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", outfile, "--outtype", "bf16"]
    converter.main()


if __name__ == "__main__":
    main()
