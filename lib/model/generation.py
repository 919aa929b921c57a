"""From prompts to completions; evaluation and chat both decode here.

All decoding runs of a prompt are decoded together: the prompt is read once, and its cache is repeated. In the chat,
sequences join and leave a batch while it runs. The random numbers of a completion depend on (seed, row, run, position)
alone, never on what else is in the batch.
"""

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm
from transformers import Cache, DynamicCache, DynamicLayer, PreTrainedModel, PreTrainedTokenizerBase

#: What `generate` of transformers takes where neither its arguments nor the model say anything.
TEMPERATURE, TOP_P, TOP_K = 1.0, 1.0, 50
#: What else a model may ask for that changes which token comes next, and the values that change nothing. None of it is
#: applied here.
_NOT_APPLIED = {
    "repetition_penalty": (None, 1.0), "no_repeat_ngram_size": (None, 0), "min_p": (None, 0.0),
    "typical_p": (None, 1.0), "epsilon_cutoff": (None, 0.0), "eta_cutoff": (None, 0.0), "num_beams": (None, 1),
    "min_new_tokens": (None, 0), "min_length": (None, 0), "suppress_tokens": (None, []), "bad_words_ids": (None, []),
}  # fmt: skip
# Tokens of a block, and logits of the rows that are sampled together on a CPU.
_BLOCK, _CACHED = 64, 2**19
#: Padded tokens of prompts that are read together: enough for the matrix products, and few prompts are padded.
TOKENS_READ = 2_048


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen."""

    max_new_tokens: int
    end_ids: tuple[int, ...]
    """Tokens that end a completion; the end itself is not part of it."""
    greedy: bool = False
    temperature: float = 1.0
    """0: the likeliest token, as if greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""


class HasDefaults(Protocol):
    """A model, in this process or on a server, that has sampling defaults."""

    generation_config: Any


def decoding_of(
    model: HasDefaults,
    end_of_turn: int,
    max_new_tokens: int,
    *,
    do_sample: bool = True,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
) -> Decoding:
    """How `model.generate` would decode with these arguments.

    None is the model's own default, and that of transformers where the model has none. Only whether to sample is not
    left to the model.
    """
    defaults = model.generation_config
    eos = defaults.eos_token_id
    ends = {end_of_turn, *([eos] if isinstance(eos, int) else eos or [])}

    def first(*values: Any) -> Any:
        return next(value for value in values if value is not None)

    return Decoding(
        max_new_tokens=max_new_tokens,
        end_ids=tuple(sorted(ends)),
        greedy=not do_sample,
        temperature=first(temperature, defaults.temperature, TEMPERATURE),
        top_p=first(top_p, defaults.top_p, TOP_P),
        top_k=first(top_k, defaults.top_k, TOP_K),
    )


def not_applied(defaults: Any) -> dict[str, Any]:
    """What a model's generation settings ask for that completions here do without, by name: reports say so."""
    asked = {name: getattr(defaults, name, None) for name in _NOT_APPLIED}
    return {name: value for name, value in asked.items() if value not in _NOT_APPLIED[name]}


def uniforms(seed: int, row: int, run: int, count: int) -> np.ndarray:
    """The random numbers of one completion, shape (count,), in [0, 1): position i always draws number i."""
    return np.random.Generator(np.random.Philox(key=[seed * 2**32 + run, row])).random(count)


def pick(logits: torch.Tensor, draws: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """The next token of each sequence, shape (sequences,), from logits (sequences, vocabulary) and one draw each.

    Temperature, then top-k, then top-p, as in transformers; then the inverse of the cumulative distribution. No
    vocabulary is ever sorted.
    """
    if decoding.greedy or decoding.temperature == 0:
        return logits.argmax(-1)
    # Block b holds every `width`-th token from b on: what is asked of each block is asked of whole rows of memory.
    vocabulary = logits.shape[-1]
    width = -(-vocabulary // _BLOCK)
    if vocabulary % _BLOCK:
        logits = torch.nn.functional.pad(logits, (0, width * _BLOCK - vocabulary), value=-torch.inf)
    limited = 0 < decoding.top_k < vocabulary
    logits, draws = logits.view(-1, _BLOCK, width), draws.double()
    if not limited:
        return _number(*_drawn_in_parts(logits, draws, decoding), width)
    tokens = logits.new_empty(len(logits), dtype=torch.long)
    for rows, numbers in _likeliest(logits, decoding.top_k):
        some = logits[rows].gather(-1, numbers.unsqueeze(1).expand(-1, _BLOCK, -1))
        member, place = _drawn_in_parts(some, draws[rows], decoding)
        tokens[rows] = _number(member, numbers.gather(-1, place), width)
    return tokens


def _number(member: torch.Tensor, block: torch.Tensor, width: int) -> torch.Tensor:
    return (member * width + block).squeeze(-1)


def _drawn_in_parts(logits: torch.Tensor, draws: torch.Tensor, decoding: Decoding) -> tuple[torch.Tensor, torch.Tensor]:
    # A processor's cache holds a few rows, and a GPU likes all of them at once.
    rows = len(logits) if logits.is_cuda else max(1, _CACHED // (_BLOCK * logits.shape[-1]))
    # The same memory for each part: new memory is slow at first use.
    room = logits.new_empty((2, min(rows, len(logits)), *logits.shape[1:]), dtype=torch.float32)
    found = [_drawn(some, own, decoding, room) for some, own in zip(logits.split(rows), draws.split(rows), strict=True)]
    member, block = (torch.cat(both) for both in zip(*found, strict=True))
    return member, block


def _likeliest(logits: torch.Tensor, count: int) -> Iterator[tuple[torch.Tensor | slice, torch.Tensor]]:
    """The numbers of the blocks that hold the `count` likeliest tokens and all that equal the last of these.

    Rows with far more such blocks, because many tokens are equal, come once more by themselves: the others need not
    wait for them.

    Yields:
        Rows, first all of them, and as many numbers for each, in rising order.
    """
    peaks = logits.amax(1)
    # As many tokens as blocks have a logit of at least this, so the last of the likeliest has.
    least = peaks.topk(count).values[:, -1:] if count < peaks.shape[-1] else -torch.inf
    needed = (peaks >= least).sum(-1)
    # All together, since choosing rows would copy their logits.
    yield slice(None), peaks.topk(min(int(needed.max()), 2 * count)).indices.sort().values
    rows = (needed > 2 * count).nonzero().squeeze(-1)
    if len(rows):
        yield rows, peaks[rows].topk(int(needed[rows].max())).indices.sort().values


def _drawn(
    logits: torch.Tensor, draws: torch.Tensor, decoding: Decoding, room: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token of each row of logits (rows, members, blocks): its member and block, each of shape (rows, 1)."""
    scaled, weights = room[:, : len(logits)]
    # In 32 bits first: a quotient in 16 would be rounded.
    torch.div(logits.float(), decoding.temperature, out=scaled)
    torch.softmax(scaled.flatten(1), -1, out=weights.view(len(logits), -1))
    if 0 < decoding.top_k < weights[0].numel():
        # As in transformers, tokens that are exactly as likely as the last one are kept too.
        last = scaled.flatten(1).topk(decoding.top_k, sorted=False).values.amin(-1)
        # Numbers instead of truth values, which take a CPU five times as long.
        weights *= torch.ge(scaled, last.view(-1, 1, 1), out=scaled)
    mass = _mass(weights)
    member, block = _inverse(weights, mass, draws)
    if decoding.top_p < 1:
        _judge(weights, mass[:, -1], draws, decoding.top_p, member, block, scaled)
    return member, block


def _judge(
    weights: torch.Tensor,
    total: torch.Tensor,
    draws: torch.Tensor,
    top_p: float,
    member: torch.Tensor,
    block: torch.Tensor,
    room: torch.Tensor,
) -> None:
    """Replace the tokens that top_p does not keep by others that it does; the weights are changed too.

    A token is kept while the likelier ones together have less than top_p; of equal ones the first are the likelier. So
    a token that was drawn from all can be judged by one sum. If it is not kept, nor is any less likely one: another is
    drawn from the likelier, with a number that follows from the first.
    """
    needed, waiting = top_p * total, torch.arange(len(weights), device=weights.device)
    state, own_member, own_block = (draws * 2**53).long(), member, block
    while True:
        weights *= _likelier(weights, own_member, own_block, room)
        mass = _mass(weights)
        out = mass[:, -1] >= needed
        if not bool(out.any()):
            return
        weights, mass, needed, waiting, state = weights[out], mass[out], needed[out], waiting[out], state[out]
        # Knuth's generator: its highest 53 bits are the next number.
        state = state * 6364136223846793005 + 1442695040888963407
        own_member, own_block = _inverse(weights, mass, ((state >> 11) & (2**53 - 1)).double() / 2**53)
        member[waiting], block[waiting] = own_member, own_block


def _mass(weights: torch.Tensor) -> torch.Tensor:
    """The sums of the weights up to each block, (rows, blocks)."""
    return weights.sum(1).double().cumsum(-1)


def _inverse(weights: torch.Tensor, mass: torch.Tensor, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Member and block in which the cumulative weights pass a share of their sum."""
    block, left = _passed(mass, draws.unsqueeze(-1))
    return _passed(_of_block(weights, block).double().cumsum(-1), left)[0], block


def _passed(cumulative: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The place at which a cumulative sum passes a share of the whole, and the share of that place that is wanted."""
    # However it is rounded it stays below the whole: so there is a place, and it has a weight.
    wanted = cumulative[:, -1:] * (share * (1 - 2**-50))
    place = torch.searchsorted(cumulative, wanted, right=True)
    padded = torch.nn.functional.pad(cumulative, (1, 0))
    before = padded.gather(-1, place)
    return place, (wanted - before) / (padded.gather(-1, place + 1) - before)


def _of_block(values: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    return values.gather(-1, block.unsqueeze(1).expand(-1, values.shape[1], 1)).squeeze(-1)


def _likelier(weights: torch.Tensor, member: torch.Tensor, block: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """1 for tokens likelier than one of each row, or equal and before it (in a block before, or in its own); else 0."""
    own = _of_block(weights, block)
    weight = own.gather(-1, member)
    before = torch.arange(weights.shape[-1], device=weights.device) < block
    least = torch.where(before, torch.nextafter(weight, torch.zeros_like(weight)), weight)
    likelier = torch.gt(weights, least.unsqueeze(1), out=room[: len(weights)])
    first = torch.arange(weights.shape[1], device=weights.device) < member
    of_own = ((own > weight) | ((own == weight) & first)).to(weights).unsqueeze(-1)
    return likelier.scatter_(-1, block.unsqueeze(1).expand_as(of_own), of_own)


class _RoomyLayer(DynamicLayer):
    """A layer's keys and values, with room reserved for new tokens, so that adding one copies nothing."""

    def fill(self, parts: list[tuple[DynamicLayer, torch.Tensor]], columns: int, room: int) -> None:
        """Hold these rows of these layers, one below the other: the last `columns` of each, zeros before shorter ones.

        Args:
            parts: layers, and the indices of their rows; a row may be repeated.
            room: how many more tokens to reserve space for.
        """
        self._all_keys = _stacked([(layer.keys, rows) for layer, rows in parts], columns, room)
        self._all_values = _stacked([(layer.values, rows) for layer, rows in parts], columns, room)
        self.keys, self.values = self._all_keys[:, :, :columns], self._all_values[:, :, :columns]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        self._all_keys[:, :, start:end] = key_states
        self._all_values[:, :, start:end] = value_states
        self.keys, self.values = self._all_keys[:, :, :end], self._all_values[:, :, :end]
        return self.keys, self.values


def _stacked(parts: list[tuple[torch.Tensor, torch.Tensor]], columns: int, room: int) -> torch.Tensor:
    first = parts[0][0]
    count = sum(len(rows) for _, rows in parts)
    stacked = first.new_empty((count, first.shape[1], columns + room, first.shape[3]))
    start = 0
    for states, rows in parts:
        held = min(columns, states.shape[2])
        block = stacked[start : start + len(rows), :, :columns]
        block[:, :, : columns - held] = 0
        block[:, :, columns - held :] = states[:, :, states.shape[2] - held :][rows]
        start += len(rows)
    return stacked


@dataclass
class _Sequence:
    key: Hashable
    draws: np.ndarray
    decoding: Decoding
    written: int
    going: bool = True


class Batch:
    """Sequences that are completed together, one token of each in a step; others may join and leave between steps.

    Rows are padded on the left, so that all end at the same column. Each row's latest token is not in the cache yet: a
    step reads it and picks the next.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._sequences: list[_Sequence] = []
        self._layers = [_RoomyLayer() for _ in range(model.config.get_text_config().num_hidden_layers)]
        self._cache = Cache(layers=self._layers)
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=model.device)
        self._latest = torch.zeros(0, dtype=torch.long, device=model.device)

    def __len__(self) -> int:
        """How many sequences are still running."""
        return sum(sequence.going for sequence in self._sequences)

    @property
    def keys(self) -> list[Hashable]:
        """The key of every row, of those too that have ended and not been dropped yet."""
        return [sequence.key for sequence in self._sequences]

    def add(
        self, key: Hashable, prompt: Sequence[int], draws: np.ndarray, decoding: Decoding, written: Sequence[int] = ()
    ) -> None:
        """Let one sequence join.

        Args:
            key: names it in what `step` returns.
            prompt: token ids, at least one.
            draws: shape (max_new_tokens,): the random number of each position.
            written: what was already completed elsewhere: it continues from there as if it had been here.
        """
        self.add_prompts([[*prompt, *written]], [{key: draws}], decoding, len(written))

    @torch.inference_mode()
    def add_prompts(
        self,
        prompts: Sequence[Sequence[int]],
        runs: Sequence[dict[Hashable, np.ndarray]],
        decoding: Decoding,
        written: int = 0,
    ) -> None:
        """Let the sequences of several prompts join; each prompt is read once, however many sequences continue it.

        Prompts that follow each other are read together, so in rising order of length there is hardly any padding.
        """
        keep = self._going()
        parts: list[tuple[Sequence[DynamicLayer], torch.Tensor, torch.Tensor]] = []
        if len(keep):
            parts.append((self._layers, self._mask, keep))
        latest = [self._latest[keep]]
        joining: list[_Sequence] = []
        for some in _read_together(prompts):
            layers, mask, last = self._read(prompts[some])
            counts = torch.tensor([len(keys) for keys in runs[some]], device=self._model.device)
            owner = torch.arange(len(counts), device=self._model.device).repeat_interleave(counts)
            parts.append((layers, mask, owner))
            latest.append(last[owner])
            joining += [_Sequence(key, draws, decoding, written) for keys in runs[some] for key, draws in keys.items()]
        self._arrange(parts, joining)
        self._latest = torch.cat(latest)

    def _read(self, prompts: Sequence[Sequence[int]]) -> tuple[Sequence[DynamicLayer], torch.Tensor, torch.Tensor]:
        """The cache and the mask of some prompts without their last tokens, which are left for the first step."""
        where = self._model.device
        longest = max(2, *(len(prompt) for prompt in prompts))
        ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for n, prompt in enumerate(prompts):
            ids[n, longest - len(prompt) :] = torch.tensor(prompt)
            mask[n, longest - len(prompt) :] = 1
        ids, mask, latest = ids[:, :-1].to(where), mask[:, :-1].to(where), ids[:, -1].to(where)
        read = DynamicCache()
        self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=read,
            use_cache=True,
            logits_to_keep=1,
        )
        return read.layers, mask, latest

    def remove(self, key: Hashable) -> None:
        """Let a sequence leave; it is not an error if it has left already."""
        for sequence in self._sequences:
            if sequence.key == key:
                sequence.going = False

    @torch.inference_mode()
    def step(self) -> list[tuple[Hashable, int | None]]:
        """The next token of every sequence, by key; None where it ends instead, and leaves.

        A sequence that reaches its limit of tokens leaves too, once the last of them was returned.
        """
        keep = self._going()
        if len(keep) == 0:
            return []
        # Dropping the ended ones costs a copy of all others: it pays once there are many.
        if len(keep) < 0.85 * len(self._sequences):
            self._arrange([(self._layers, self._mask, keep)], [])
            self._latest = self._latest[keep]
        positions = self._mask.sum(-1, keepdim=True)
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(self._mask), 1))], dim=-1)
        logits = self._model(
            input_ids=self._latest.unsqueeze(-1),
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        found: list[tuple[Hashable, int | None]] = []
        choices: dict[Decoding, list[int]] = {}
        for row, sequence in enumerate(self._sequences):
            if sequence.going:
                choices.setdefault(sequence.decoding, []).append(row)
        for decoding, rows in choices.items():
            some = [self._sequences[row] for row in rows]
            draws = torch.tensor([sequence.draws[sequence.written] for sequence in some], device=logits.device)
            tokens = pick(logits if len(rows) == len(logits) else logits[rows], draws, decoding)
            self._latest[rows] = tokens
            for sequence, token in zip(some, tokens.tolist(), strict=True):
                sequence.written += 1
                ended = token in decoding.end_ids
                sequence.going = not ended and sequence.written < decoding.max_new_tokens
                found.append((sequence.key, None if ended else token))
        return found

    def _going(self) -> torch.Tensor:
        rows = [row for row, sequence in enumerate(self._sequences) if sequence.going]
        return torch.tensor(rows, dtype=torch.long, device=self._model.device)

    def _arrange(
        self, parts: list[tuple[Sequence[DynamicLayer], torch.Tensor, torch.Tensor]], joining: list[_Sequence]
    ) -> None:
        """Bring rows into one block with no more columns than the longest needs, and room for what they may write.

        Args:
            parts: layers, mask and the rows that stay: first those already here, then those that join.
        """
        self._sequences = [sequence for sequence in self._sequences if sequence.going] + joining
        room = max(sequence.decoding.max_new_tokens - sequence.written for sequence in self._sequences)
        columns = max(int(mask[rows].sum(-1).max()) for _, mask, rows in parts)
        columns = max(1, columns)
        for n, layer in enumerate(self._layers):
            layer.fill([(layers[n], rows) for layers, _, rows in parts], columns, room)
        masks = [mask[rows] for _, mask, rows in parts]
        self._mask = torch.cat([torch.nn.functional.pad(mask, (columns - mask.shape[1], 0)) for mask in masks])


def _read_together(prompts: Sequence[Sequence[int]]) -> Iterator[slice]:
    """Prompts that follow each other, as many as fit padded to the longest of them, at least one."""
    start, longest = 0, 0
    for n, prompt in enumerate(prompts):
        longest = max(longest, len(prompt))
        if n > start and longest * (n + 1 - start) > TOKENS_READ:
            yield slice(start, n)
            start, longest = n, len(prompt)
    yield slice(start, len(prompts))


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
    runs: list[dict[Hashable, np.ndarray]] = [
        {(n, run): own for run, own in enumerate(of_prompt)} for n, of_prompt in enumerate(draws)
    ]
    completions: dict[Hashable, list[int]] = {key: [] for of_prompt in runs for key in of_prompt}
    batch = Batch(model)
    batch.add_prompts(prompts, runs, decoding)
    while len(batch):
        for key, token in batch.step():
            if token is not None:
                completions[key].append(token)
    return [[completions[key] for key in of_prompt] for of_prompt in runs]


def complete(
    model: PreTrainedModel,
    rows: Sequence[int],
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    runs: int,
    seed: int,
) -> list[list[list[int]]]:
    """The completions of a batch of rows, as `decode` returns them; each draws its own numbers (`uniforms`)."""
    draws = np.stack([[uniforms(seed, row, run, decoding.max_new_tokens) for run in range(runs)] for row in rows])
    return decode(model, prompts, draws, decoding)


def write_completions(
    model: Any,
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
    complete: Callable[..., list[list[list[int]]]] = complete,
) -> None:
    """Complete every prompt `runs` times and write the completions to a jsonl file, batch by batch as they come.

    A file that an earlier call left unfinished is continued: its whole batches are kept, a partial last one is redone.
    The batches are the same however often it was interrupted, so the finished file is the same, byte for byte. A file
    that was made with other `settings`, from other prompts or with another decoding is started over. From a batch on
    whose texts are not what their ids say (somebody changed them) all is done again.

    Args:
        prompts: token ids by row number.
        settings: what else the completions depend on (such as the model); they are in the first line.
        complete: how a batch is completed, with the arguments of `complete` above.
    """
    order = sorted(prompts, key=lambda row: (len(prompts[row]), row))
    batches = [order[start : start + batch_rows] for start in range(0, len(order), batch_rows)]
    asked = hashlib.sha256(json.dumps([(row, prompts[row]) for row in order]).encode()).hexdigest()
    origin = {"settings": settings, "prompts": asked, "decoding": asdict(decoding), "batch_rows": batch_rows}
    origin |= {"rows": len(order), "runs": runs, "seed": seed}
    head = json.dumps(origin, sort_keys=True, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    of_batches = [[(row, run) for row in batch for run in range(runs)] for batch in batches]
    done = _keep_whole_batches(path, head, of_batches, tokenizer)
    with path.open("a", encoding="utf-8") as file, tqdm(total=len(order), desc=label, unit="row") as progress:
        if done == 0:
            file.write(head + "\n")
        for n, batch in enumerate(batches):
            if n >= done:
                found = complete(model, batch, [prompts[row] for row in batch], decoding, runs, seed)
                for row, completions in zip(batch, found, strict=True):
                    for run, ids in enumerate(completions):
                        record = {"row": row, "run": run, "text": text_of(tokenizer, ids), "ids": ids}
                        file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            progress.update(len(batch))


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """What a completion says: its ids alone decide."""
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _keep_whole_batches(
    path: Path, head: str, batches: list[list[tuple[int, int]]], tokenizer: PreTrainedTokenizerBase
) -> int:
    """Cut the file back to its complete batches and return their number; 0 also where its first line is another.

    Args:
        batches: row and run of each completion.
    """
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        first = file.readline()
        if first != (head + "\n").encode():
            path.unlink()
            return 0
        done, end = 0, file.tell()
        for batch in batches:
            if not all([_is_completion(file.readline(), row, run, tokenizer) for row, run in batch]):
                break
            done, end = done + 1, file.tell()
    os.truncate(path, end)
    if done == 0:
        path.unlink()
    return done


def _is_completion(line: bytes, row: int, run: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        known = json.loads(line)
        whole = {"row": row, "run": run, "text": text_of(tokenizer, known["ids"]), "ids": known["ids"]}
        return line.endswith(b"\n") and known == whole
    # Not what this module wrote.
    except (ValueError, KeyError, TypeError, OverflowError):
        return False


def read_settings(path: Path) -> dict[str, Any]:
    """What the completions in a file depend on, as given to `write_completions`."""
    return dict(_read_head(path)["settings"])


def read_decoding(path: Path) -> Decoding:
    """How the completions in a file were decoded."""
    known = _read_head(path)["decoding"]
    return Decoding(**known | {"end_ids": tuple(known["end_ids"])})


def _read_head(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        return dict(json.loads(next(file)))


def read_completions(path: Path) -> Iterator[dict[str, Any]]:
    """The completions in a finished or unfinished file: row, run, text, ids."""
    with path.open(encoding="utf-8") as file:
        next(file)
        for line in file:
            yield json.loads(line)
