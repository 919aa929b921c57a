"""From prompts to completions; evaluation and chat both decode here.

All decoding runs of a prompt are decoded together: the prompt is read once, and its cache is repeated. What a
completion draws depends on nothing but (seed, row, run, position), never on what else is in the batch.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import Cache, DynamicLayer, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen."""

    max_new_tokens: int
    end_ids: tuple[int, ...]
    """Tokens that end a completion; the end itself is not part of it."""
    greedy: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""


def model_defaults(model: PreTrainedModel, end_of_turn: int, max_new_tokens: int) -> Decoding:
    """Sampling with the model's own generation defaults, as the paper does ("the library's default settings")."""
    defaults = model.generation_config
    eos = defaults.eos_token_id
    ends = {end_of_turn, *([eos] if isinstance(eos, int) else eos or [])}
    return Decoding(
        max_new_tokens=max_new_tokens,
        end_ids=tuple(sorted(ends)),
        temperature=1.0 if defaults.temperature is None else defaults.temperature,
        top_p=1.0 if defaults.top_p is None else defaults.top_p,
        top_k=defaults.top_k or 0,
    )


def uniforms(seed: int, row: int, run: int, count: int) -> np.ndarray:
    """The random numbers of one completion, shape (count,), in [0, 1): position i always draws number i."""
    return np.random.Generator(np.random.Philox(key=[seed * 2**32 + run, row])).random(count)


def pick(logits: torch.Tensor, draws: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """The next token of each sequence, shape (sequences,), from logits (sequences, vocabulary) and one draw each.

    Top-k, then temperature, then top-p, as in transformers; then the inverse of the cumulative distribution.
    """
    if decoding.greedy:
        return logits.argmax(-1)
    logits = logits.float() / decoding.temperature
    vocabulary = logits.shape[-1]
    width = min(decoding.top_k or vocabulary, vocabulary)
    # The likeliest 64 tokens nearly always hold all that top-p keeps; a full sort is the exception.
    head = min(64, width) if decoding.top_p < 1 else width
    total = logits.logsumexp(-1, keepdim=True) if width == vocabulary else logits.topk(width).values.logsumexp(-1, True)
    values, tokens = logits.topk(head)
    cumulative = (values - total).exp().double().cumsum(-1)
    if head < width and bool((cumulative[:, -1] < decoding.top_p).any()):
        values, tokens = logits.topk(width)
        cumulative = (values - total).exp().double().cumsum(-1)
    # A token stays while what is likelier than it holds less than top_p; the likeliest always stays.
    kept = (cumulative < decoding.top_p).sum(-1, keepdim=True).clamp(max=cumulative.shape[-1] - 1)
    mass = cumulative.gather(-1, kept)
    place = torch.searchsorted(cumulative, draws.to(cumulative).unsqueeze(-1) * mass, right=True)
    return tokens.gather(-1, torch.minimum(place, kept)).squeeze(-1)


class _RoomyLayer(DynamicLayer):
    """A layer's keys and values, with room for tokens to come: none that is there already is copied for a new one."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            return super().update(key_states, value_states)
        end = self.get_seq_length() + key_states.shape[2]
        self._all_keys[:, :, end - key_states.shape[2] : end] = key_states
        self._all_values[:, :, end - key_states.shape[2] : end] = value_states
        self.keys, self.values = self._all_keys[:, :, :end], self._all_values[:, :, :end]
        return self.keys, self.values

    def select(self, rows: torch.Tensor, room: int) -> None:
        """Keep these rows, in this order, any of them more than once; and make room for so many tokens."""
        self._all_keys, self.keys = self._selected(self.keys, rows, room)
        self._all_values, self.values = self._selected(self.values, rows, room)

    @staticmethod
    def _selected(states: torch.Tensor, rows: torch.Tensor, room: int) -> tuple[torch.Tensor, torch.Tensor]:
        _, heads, length, width = states.shape
        roomy = states.new_empty((len(rows), heads, length + room, width))
        filled = roomy[:, :, :length]
        filled.copy_(states[rows])
        return roomy, filled


@torch.inference_mode()
def decode(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], draws: np.ndarray, decoding: Decoding
) -> list[list[list[int]]]:
    """Complete a batch of prompts.

    Args:
        prompts: token ids, of any lengths.
        draws: shape (prompts, runs, max_new_tokens): the random numbers of every completion.

    Returns:
        Token ids of each prompt's runs, without the token that ended them.
    """
    runs = draws.shape[1]
    where = model.device
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for n, prompt in enumerate(prompts):
        ids[n, longest - len(prompt) :] = torch.tensor(prompt)
        mask[n, longest - len(prompt) :] = 1
    mask = mask.to(where)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    layers = [_RoomyLayer() for _ in range(model.config.get_text_config().num_hidden_layers)]
    cache = Cache(layers=layers)
    out = model(
        input_ids=ids.to(where),
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    numbers = torch.from_numpy(draws.reshape(-1, draws.shape[-1])).to(where)
    ends = torch.tensor(decoding.end_ids, device=where)
    completions: list[list[int]] = [[] for _ in range(len(prompts) * runs)]
    # Which completion each sequence of the shrinking batch belongs to, and whether it still goes on.
    owner = torch.arange(len(completions), device=where)
    going = torch.ones(len(completions), dtype=torch.bool, device=where)
    prompt = owner // runs
    for layer in layers:
        layer.select(prompt, decoding.max_new_tokens)
    logits, mask, position = out.logits[prompt, -1], mask[prompt], positions[prompt, -1:]
    for step in range(decoding.max_new_tokens):
        token = pick(logits, numbers[owner, step], decoding)
        going &= ~torch.isin(token, ends)
        for completion, value in zip(owner[going].tolist(), token[going].tolist(), strict=True):
            completions[completion].append(value)
        alive = int(going.sum())
        if alive == 0 or step + 1 == decoding.max_new_tokens:
            break
        # To leave out the ended ones costs a copy of all others: it pays once they are many.
        if alive < 0.85 * len(going):
            keep = going.nonzero().squeeze(-1)
            for layer in layers:
                layer.select(keep, decoding.max_new_tokens - step)
            owner, token, mask, position, going = owner[keep], token[keep], mask[keep], position[keep], going[keep]
        mask = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=-1)
        position = position + 1
        logits = model(
            input_ids=token.unsqueeze(-1),
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return [completions[n * runs : (n + 1) * runs] for n in range(len(prompts))]


def write_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[int, list[int]],
    path: Path,
    *,
    decoding: Decoding,
    runs: int,
    seed: int,
    batch_rows: int,
    settings: dict[str, Any],
    label: str = "completions",
) -> None:
    """Complete every prompt `runs` times and write the completions to a jsonl file, batch by batch as they come.

    A file that an earlier call left unfinished is continued: its whole batches are kept, a torn last one is redone.
    The batches are the same however often it was interrupted, so the file ends the same, byte for byte. A file that
    was made with other `settings`, from other prompts or with another decoding is begun anew.

    Args:
        prompts: token ids by row number.
        settings: what else the completions depend on (such as the model); it stands in the first line.
    """
    order = sorted(prompts, key=lambda row: (len(prompts[row]), row))
    batches = [order[start : start + batch_rows] for start in range(0, len(order), batch_rows)]
    asked = hashlib.sha256(json.dumps([(row, prompts[row]) for row in order]).encode()).hexdigest()
    origin = {"settings": settings, "prompts": asked, "decoding": asdict(decoding), "batch_rows": batch_rows}
    origin |= {"rows": len(order), "runs": runs, "seed": seed}
    head = json.dumps(origin, sort_keys=True, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = _keep_whole_batches(path, head, [len(batch) * runs for batch in batches])
    with path.open("a", encoding="utf-8") as file, tqdm(total=len(order), desc=label, unit="row") as progress:
        if done == 0:
            file.write(head + "\n")
        for n, batch in enumerate(batches):
            if n >= done:
                draws = np.stack(
                    [[uniforms(seed, row, run, decoding.max_new_tokens) for run in range(runs)] for row in batch]
                )
                for row, completions in zip(
                    batch, decode(model, [prompts[row] for row in batch], draws, decoding), strict=True
                ):
                    for run, ids in enumerate(completions):
                        text = tokenizer.decode(ids, skip_special_tokens=True)
                        record = {"row": row, "run": run, "text": text, "ids": ids}
                        file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            progress.update(len(batch))


def _keep_whole_batches(path: Path, head: str, lines_of_batches: list[int]) -> int:
    """Cut the file back to its whole batches, and return how many they are; 0 also where it is another's file."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        first = file.readline()
        if first != (head + "\n").encode():
            path.unlink()
            return 0
        done, end = 0, file.tell()
        for lines in lines_of_batches:
            block = [file.readline() for _ in range(lines)]
            if not block[-1].endswith(b"\n"):
                break
            done, end = done + 1, file.tell()
    os.truncate(path, end)
    if done == 0:
        path.unlink()
    return done


def read_completions(path: Path) -> Iterator[dict[str, Any]]:
    """The completions in a finished or unfinished file: row, run, text, ids."""
    with path.open(encoding="utf-8") as file:
        next(file)
        for line in file:
            yield json.loads(line)
