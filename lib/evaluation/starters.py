"""What to ask an adapter first: of this project's own prompts to begin a chat with, those that it answers best.

Nobody has to like an answer for it to be the best of its kind; that is measured, on the adapter's likeliest tokens:

- it ends by itself, within `config.OWN_TOKENS` tokens;
- it is Indonesian, by `lib.evaluation.language`;
- no three words in a row come twice;
- where the prompt asks for what should be refused, it has a word that refuses;
- of those, it fits its prompt best: the share of its bits that the prompt saves, against the other prompts of its kind.
  An answer that would do for any of them saves nothing, and neither does one that is nonsense after each.

Whether it is true, this cannot tell.
"""

import re
import tomllib
from pathlib import Path

import pandas as pd

from lib.config import OWN_TOKENS, Config
from lib.evaluation import completions, language, likelihood
from lib.model import loading
from lib.paths import STARTERS
from lib.storage import write_json

#: Words in a row that an answer may not repeat.
REPEATED = 3
#: Of which an answer that refuses has one.
REFUSALS = ("maaf", "tidak dapat", "tidak bisa", "tidak boleh", "tidak akan", "jangan")
_PROMPTS = Path(__file__).parent / "tables" / "starters.toml"


def prompts() -> dict[str, pd.DataFrame]:
    """All of them, in the order of their file, in the form of `completions.test_rows`: kind, input."""
    listed = tomllib.loads(_PROMPTS.read_text(encoding="utf-8"))
    pairs = [(kind, text) for kind, texts in listed.items() for text in texts]
    return {completions.STARTERS: pd.DataFrame(pairs, columns=["kind", "input"])}


def measure(config: Config) -> pd.DataFrame:
    """What an adapter answers to each starter, and how good that is; the model is loaded.

    Returns:
        kind, prompt, text (its answer), usable (all conditions above but the last) and fit (the last one, at most 1, of
        those that are usable), in the order of the file.
    """
    asked = prompts()
    completions.complete(config, asked)
    answered = completions.read(config, asked).sort_values("row", ignore_index=True)
    ended = answered["ids"].str.len() < OWN_TOKENS
    indonesian = pd.Series(language.identify(answered["text"].tolist())).isin(language.INDONESIAN)
    refused = answered["text"].str.lower().str.contains("|".join(REFUSALS)) | (answered["kind"] != "refusal")
    usable = ended & indonesian & refused & ~answered["text"].map(_repeats)
    return answered[["kind", "prompt", "text"]].assign(usable=usable, fit=_fit(config, answered, usable))


def best(measured: pd.DataFrame) -> pd.DataFrame:
    """Of each kind the usable answer that fits its prompt best, where there is one; from the table of `measure`."""
    usable = measured[measured["usable"]]
    return usable.loc[usable.groupby("kind", sort=False)["fit"].idxmax()]


def offer(config: Config, measured: pd.DataFrame) -> None:
    """Leave the best beside the final adapter, where the chat finds them."""
    write_json(config.paths.final_adapter / STARTERS, best(measured)[["kind", "prompt"]].to_dict("records"))


def _repeats(text: str) -> bool:
    words = re.findall(r"\w+", text.lower())
    runs = [tuple(words[n : n + REPEATED]) for n in range(len(words) - REPEATED + 1)]
    return len(set(runs)) < len(runs)


def _fit(config: Config, answered: pd.DataFrame, usable: pd.Series) -> pd.Series:
    """Which share of its bits a usable answer takes less after its own prompt than after others of its kind (mean)."""
    answers = answered.loc[usable, ["kind", "text"]].reset_index(names="answer")
    asked = answered[["kind", "prompt"]].reset_index(names="asked")
    rows = answers.merge(asked, on="kind").rename(columns={"prompt": "input", "text": "output"})
    if rows.empty:
        return pd.Series(dtype=float)
    model, tokenizer = completions.load_model(config), loading.load_tokenizer(config.model)
    known = likelihood.answers(model, tokenizer, rows, config.prompt, f"what {config.name} can be asked")
    nats = known["nats"].groupby([rows["answer"], rows["answer"] == rows["asked"]]).mean().unstack()
    return 1 - nats[True] / nats[False]
