"""How well a model predicts the reference answers: the first outcome, which needs no decoding and no reference length.

In bits a byte, so that models with other tokenizers can be compared.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lib.config import Config, Prompt
from lib.evaluation import completions, metrics
from lib.model import loading
from lib.model.prompts import Example, asked, conversation, earlier, encode_example
from lib.storage import whole

#: Padded tokens of rows that are read together: their logits over Llama's 128,256 tokens then take 2 GB at 32 bits.
TOKENS_PER_BATCH = 4_096
_TEXTS = ("input", "output", "turns")


def measure(config: Config, tests: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """How one model predicts the answers of the test rows, by protocol; from its files where they are of the same model
    and rows.

    Returns:
        `answers` and `bits a byte` by protocol: how many rows there are, and the likelihood of all together.
    """
    made_by, model, found = completions.origin(config), None, {}
    for protocol, rows in tests.items():
        if protocol == "greedy":
            # The rows of the clean protocol.
            continue
        path = config.paths.likelihood(config.name, protocol)
        texts = hashlib.sha256(
            rows[[name for name in _TEXTS if name in rows]].to_json(orient="values").encode()
        ).hexdigest()
        origin = json.dumps(made_by | {"rows": texts}, sort_keys=True)
        if not path.is_file() or read(config, protocol).attrs.get("origin") != origin:
            model = model or completions.load_model(config)
            tokenizer = loading.load_tokenizer(config.model)
            table = answers(
                model,
                tokenizer,
                rows,
                config.prompt,
                f"likelihood of {config.name}, {protocol}",
                config.evaluation.instruction,
                made_by["shown"],
            )
            table.attrs["origin"] = origin
            with whole(path) as temporary:
                table.to_parquet(temporary)
        known = read(config, protocol)
        bits = metrics.score_of("loss_per_byte", known[["nats", "bytes"]].sum().to_numpy(), len(known))
        found[protocol] = {"answers": len(known), "bits a byte": bits}
    return pd.DataFrame(found).T


def read(config: Config, protocol: str) -> pd.DataFrame:
    """What `measure` has written of one model."""
    return pd.read_parquet(config.paths.likelihood(config.name, protocol))


@torch.inference_mode()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: pd.DataFrame,
    settings: Prompt,
    label: str = "",
    instruction: str = "",
    shown: Sequence[tuple[str, str]] = (),
) -> pd.DataFrame:
    """The negative log-likelihood of each row's answer given its prompt, and the length of the answer.

    A row is cut to `max_evaluation_tokens`, and what was cut counts nothing. The end of the turn counts neither as a
    byte nor in the likelihood.

    Args:
        instruction, shown: what stands before every prompt (`prompts.conversation`).

    Returns:
        `nats`, and `bytes` of UTF-8, indexed as the rows are; both 0 where a row cannot be encoded.

    Raises:
        ValueError: if no row can be encoded.
    """
    encoded: dict[int, Example] = {}
    for place, (prompt, output) in enumerate(zip(asked(rows), rows["output"], strict=True)):
        messages = [*conversation(prompt, instruction, shown), {"role": "assistant", "content": output}]
        if example := encode_example(tokenizer, messages, settings, settings.max_evaluation_tokens, earlier(prompt)):
            encoded[place] = example
    if not encoded:
        raise ValueError(f"of {len(rows)} rows none can be encoded: raise max_evaluation_tokens")
    nats, size = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    with tqdm(total=len(encoded), desc=label, unit="row") as progress:
        for batch in _batches(encoded):
            ids, scored = _padded([encoded[place] for place in batch], model.device)
            # Nothing looks ahead, so what pads the end needs no attention mask.
            logits = model(input_ids=ids).logits[:, :-1]
            # The token before a scored one predicts it.
            scored = scored[:, 1:]
            losses = cross_entropy(logits[scored].float(), ids[:, 1:][scored], reduction="none").double().cpu().numpy()
            lengths = scored.sum(-1).cpu().numpy()
            nats[batch] = np.add.reduceat(losses, np.cumsum(lengths) - lengths)
            progress.update(len(batch))
    for place, example in encoded.items():
        output = rows["output"].iloc[place].strip()
        if example.answer_cut:
            answer = [token for token, trained in zip(example.input_ids, example.loss_mask, strict=True) if trained]
            output = tokenizer.decode(answer)
        size[place] = len(output.encode())
    return pd.DataFrame({"nats": nats, "bytes": size}, index=rows.index)


def _batches(encoded: dict[int, Example]) -> list[list[int]]:
    """Places of examples in rising order of length, as many in a batch as fit padded to its longest, at least one."""
    made: list[list[int]] = [[]]
    for place in sorted(encoded, key=lambda place: len(encoded[place].input_ids)):
        if made[-1] and len(encoded[place].input_ids) * (len(made[-1]) + 1) > TOKENS_PER_BATCH:
            made.append([])
        made[-1].append(place)
    return made


def _padded(batch: list[Example], where: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, padded at the end, and which of them are an answer's own, each of shape (batch, longest)."""
    longest = max(len(example.input_ids) for example in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    scored = torch.zeros_like(ids, dtype=torch.bool)
    for n, example in enumerate(batch):
        length = len(example.input_ids)
        ids[n, :length] = torch.tensor(example.input_ids)
        scored[n, :length] = torch.tensor(example.loss_mask, dtype=torch.bool)
        if not example.answer_cut:
            # The token that ends the turn.
            scored[n, length - 1] = False
    return ids.to(where), scored.to(where)
