"""People's votes from the chat: which of two answers they preferred, and what of that a training may see."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from transformers import PreTrainedTokenizerBase

from lib.config import Config
from lib.corpus import selection, splits
from lib.model.prompts import Messages, earlier, encode_example

#: What becomes of a vote: it is trained on or held out; or left out, since a prompt of it is alike to one that is
#: tested on, since it does not fit into a training example, or since its two answers are the same.
PARTS = ("trained on", "held out", "alike to a test row", "too long", "equal answers")
USED = PARTS[:2]
_ROLES = ("system", "user", "assistant")


class VotesError(ValueError):
    """Votes that cannot be trained on; the message says why, and what to do."""


def read(path: Path) -> pd.DataFrame:
    """The votes of a file as the chat exports it (`webapp/chat/exports.py`): TRL's conversational preference format.

    Returns:
        `prompt` (messages, up to the user's text that asks), `chosen` and `rejected` (texts), and `adapter`, the
        fingerprint of the adapter that gave one of the answers ("" where a line names none). A line that is there
        twice, as in two exports of one chat, counts once.

    Raises:
        VotesError: for a file that is not there, and for a line that is no vote.
    """
    try:
        # Not splitlines: texts may have separators of lines that JSON leaves as they are.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VotesError(
            f"the votes in {path} cannot be read ({error}): name the file that the chat offers for download"
        ) from None
    votes = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and line not in votes:
            try:
                votes[line] = _vote(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise VotesError(
                    f"{path}: line {number} is no vote (a prompt, a chosen and a rejected answer, each a list of "
                    f"messages): {line:.80}. Name the file that the chat offers for download"
                ) from None
    return pd.DataFrame(votes.values(), columns=["prompt", "chosen", "rejected", "adapter"])


def _vote(told: dict[str, Any]) -> tuple[Messages, str, str, str]:
    prompt = [{"role": turn["role"], "content": turn["content"]} for turn in told["prompt"]]
    answers = [*told["chosen"], *told["rejected"]]
    roles = [turn["role"] for turn in prompt]
    if len(told["chosen"]) != 1 or len(answers) != 2 or roles[-1:] != ["user"] or not set(roles) <= set(_ROLES):
        raise ValueError
    if not all(isinstance(turn["content"], str) for turn in [*prompt, *answers]):
        raise TypeError
    return prompt, answers[0]["content"], answers[1]["content"], str(told.get("adapter_sha") or "")


def require(count: int, config: Config, of: str = "") -> None:
    """Demand enough votes.

    Args:
        of: which votes these are, where not all that there were.

    Raises:
        VotesError: naming how many there are and how many it takes.
    """
    least = config.preference.least_votes
    if count < least:
        raise VotesError(
            f"there {'is 1 vote' if count == 1 else f'are {count} votes'}{of}, and it takes {least} "
            "(preference.least_votes): vote on more pairs of answers in the chat"
        )


def divide(votes: pd.DataFrame, config: Config, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """What becomes of every vote.

    Votes whose prompts are alike are a group, as wide as the split's measure makes it, and are trained on or held out
    together. A vote is left out where a text that a user wrote in it is alike to the prompt or output of a row on the
    test side.

    Args:
        votes: of `read`.

    Returns:
        The votes with `part` (of `PARTS`), `group`, and the token ids `prompt_ids`, `chosen_ids` and `rejected_ids` as
        lists, which are empty where a vote does not fit.

    Raises:
        VotesError: if too few are left, or if all that are left say the same.
    """
    require(len(votes), config)
    texts = votes[["prompt", "chosen", "rejected"]].itertuples(index=False)
    ids = [_encoded(vote, config, tokenizer) for vote in texts]
    table = votes.join(pd.DataFrame(ids, columns=["prompt_ids", "chosen_ids", "rejected_ids"], index=votes.index))
    table["group"] = _groups(table["prompt"].map(lambda prompt: prompt[-1]["content"]), config)
    table["part"] = "trained on"
    table.loc[table["prompt_ids"].map(len) == 0, "part"] = "too long"
    table.loc[table["chosen"] == table["rejected"], "part"] = "equal answers"
    table.loc[_tested(table, config), "part"] = "alike to a test row"
    used = table["part"] == "trained on"
    left_out = table.loc[~used, "part"].value_counts()
    reasons = ", ".join(f"{count} {part}" for part, count in left_out.items())
    require(int(used.sum()), config, f" to learn from (left out: {reasons})" if reasons else "")
    held_out = _held_out(table.loc[used, "group"], config)
    table.loc[used & table["group"].isin(held_out), "part"] = "held out"
    if not {*USED} <= {*table["part"]}:
        raise VotesError(
            f"the {used.sum()} votes are on prompts that are all alike, or nearly so: none can be held out to see "
            "whether training on the others helps. Vote on answers to other prompts too"
        )
    return table


def _encoded(
    vote: tuple[Messages, str, str], config: Config, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int], list[int]]:
    prompt, *answers = vote
    settings = config.prompt
    made = []
    for answer in answers:
        messages = [*prompt, {"role": "assistant", "content": answer}]
        example = encode_example(tokenizer, messages, settings, settings.max_train_tokens, earlier(prompt))
        # A cut answer, or two prompts cut at different places, would teach another preference than the vote.
        if example is None or example.truncated:
            return [], [], []
        made.append(example)
    begin = made[0].loss_mask.index(1)
    chosen, rejected = (example.input_ids[begin:] for example in made)
    return made[0].input_ids[:begin], chosen, rejected


def _groups(asked: pd.Series, config: Config) -> np.ndarray:
    """For each prompt, the number of its group."""
    texts = asked.reset_index(drop=True)
    ties = splits.alike(pd.DataFrame({"input": texts, "output": texts}), texts, _similarity(config))
    one, other = (ties[side].to_numpy(dtype=int) for side in ("row", "text"))
    return np.asarray(connected_components(coo_array((np.ones(len(one)), (one, other)), shape=(len(texts),) * 2))[1])


def _tested(votes: pd.DataFrame, config: Config) -> Sequence[Any]:
    """The labels of the votes that ask what a row of the test side asks or says."""
    split = splits.read(config)
    places = split.index[split["split"] == "test"].to_numpy()
    rows = selection.read(config.paths.rows, places, columns=["input", "output"])
    texts = votes["prompt"].map(lambda prompt: [turn["content"] for turn in prompt if turn["role"] == "user"]).explode()
    return list(splits.alike(rows, texts, _similarity(config))["text"].unique())


def _similarity(config: Config) -> float:
    return config.corpus.near_duplicate_similarity


def _held_out(group: pd.Series, config: Config) -> list[int]:
    """Groups drawn by the seed until they have the share of the votes that is held out; those too large for it stay."""
    sizes = group.value_counts().sort_index()
    room, chosen = max(1, round(config.preference.held_out_share * len(group))), []
    for name in np.random.default_rng(config.seed).permutation(sizes.index.to_numpy()):
        if sizes[name] <= room:
            chosen.append(int(name))
            room -= sizes[name]
    return chosen
