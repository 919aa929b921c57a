"""The checks that a set of training examples must pass before anything is trained on it.

Each catches a fault that has spoiled trainings without a warning: a doubled beginning-of-text token, an
empty or a shifted mask, an answer cut away entirely, an end of turn that is never trained, padding that ends turns.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from transformers import PreTrainedTokenizerBase

from lib.config import Prompt
from lib.model.prompts import Example, encode_prompt, end_of_turn_id


class AuditError(ValueError):
    """Examples that must not be trained on; the message names the checks that failed."""


def audit(
    examples: Sequence[Example], dropped: int, tokenizer: PreTrainedTokenizerBase, settings: Prompt
) -> pd.DataFrame:
    """Check every example. One row per check: what must hold, for how many examples of how many it does, the verdict.

    Args:
        dropped: how many examples had no room for their answer and are not among `examples`.

    Raises:
        AuditError: if there are no examples.
    """
    if not examples:
        raise no_examples(dropped, "train", settings)
    bos, pad, limit = tokenizer.bos_token_id, tokenizer.pad_token_id, settings.max_train_tokens
    end = end_of_turn_id(tokenizer, settings)
    # Some templates begin no text with such a token, and some begin every turn with it: those belong there too.
    question = [{"role": "user", "content": "a"}]
    rendered = encode_prompt(tokenizer, question, replace(settings, bos_tokens=1), 1 << 20)[0]
    begins = rendered[0] == bos
    beginning = settings.bos_tokens if begins else 0
    opened = rendered.count(bos) - begins
    whole = [e for e in examples if not e.answer_cut]

    def trained(example: Example) -> list[int]:
        return [token for token, keep in zip(example.input_ids, example.loss_mask, strict=True) if keep]

    def prompt_length(example: Example) -> int:
        return example.loss_mask.index(1) if 1 in example.loss_mask else len(example.loss_mask)

    checks = [
        (
            f"exactly {beginning} beginning-of-text token(s), at the start",
            [e.input_ids.count(bos) - opened == beginning == _leading(e.input_ids, bos) for e in examples],
        ),
        ("at least one trained token", [any(e.loss_mask) for e in examples]),
        ("prompt wholly masked: one unbroken trained stretch, at the end",
            [all(e.loss_mask[prompt_length(e) :]) and prompt_length(e) > 0 for e in examples]),
        ("end of turn trained, once, as the last token (answers that were not cut)",
            [trained(e).count(end) == 1 and e.input_ids[-1] == end for e in whole]),
        (f"at most {limit} tokens", [len(e.input_ids) <= limit for e in examples]),
        ("no padding inside", [pad not in e.input_ids for e in examples]),
        ("pad is not an end of turn", [pad not in (end, tokenizer.eos_token_id)]),
    ]  # fmt: skip
    rows = [(name, sum(held), len(held), "pass" if all(held) else "FAIL") for name, held in checks]
    rows.append(("prompt cut to fit", sum(e.prompt_cut for e in examples), len(examples), "count"))
    rows.append(("answer cut to fit (it keeps no end of turn)", len(examples) - len(whole), len(examples), "count"))
    rows.append(("dropped: no room for the answer", dropped, len(examples) + dropped, "count"))
    return pd.DataFrame(rows, columns=["check", "examples", "of", "verdict"]).set_index("check")


def no_examples(dropped: int, part: str, settings: Prompt) -> AuditError:
    """What to raise where all rows of a part were dropped: there is nothing to train on, or no validation loss."""
    return AuditError(
        f"all rows of the part {part!r} were dropped ({dropped:,}), since none has an answer, and room for its "
        f"beginning in prompt.max_train_tokens = {settings.max_train_tokens}: raise that"
    )


def require(table: pd.DataFrame) -> None:
    """Stop the run if a check failed.

    Raises:
        AuditError: naming the failed checks with their counts.
    """
    failed = table[table["verdict"] == "FAIL"]
    if len(failed):
        faults = "; ".join(f"{name}: {row.examples:,} of {row.of:,}" for name, row in failed.iterrows())
        raise AuditError(f"the examples must not be trained on. Failed checks: {faults}")


def _leading(ids: list[int], token: int) -> int:
    count = 0
    while count < len(ids) and ids[count] == token:
        count += 1
    return count
