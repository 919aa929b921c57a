"""The model in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from wire.messages import Chosen, Likely, Offered, Piece, Request, Seen, Target

from lib.config import Model, Prompt
from lib.model import generation, loading, prompts
from worker.asked import decoding_of, encode, read_adapter_record
from worker.engine import Added, EngineError, EngineRefusalError, Step
from worker.shelf import Shelf, Shelved
from worker.text import TextStream

#: A longer conversation loses its oldest turns: reading a prompt holds up everyone else's answers.
MAX_CONTEXT = 8_192
#: With eight users on two cores a second thread holds a model of 4 million back, and helps one of 100 million.
FEW_PARAMETERS = 50_000_000
ALTERNATIVES = 5
#: Tokens whose probabilities are computed together: those of a long answer, in a large vocabulary, take gigabytes.
LOOKED_AT_ONCE = 256


@dataclass
class _Sequence:
    batch: str
    stream: TextStream
    limit: int


class TransformersEngine:
    """Base model and adapter, both in memory, each with a batch that answers join and leave at any step.

    Args:
        loaded: the models by target.
        make_batch: an empty batch of a model; lib.model.generation.Batch.
        shelf: the adapters beside the own one.
    """

    kind = "transformers"

    def __init__(
        self,
        loaded: dict[Target, PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        *,
        model: str,
        adapter_sha: str | None = None,
        max_context: int = MAX_CONTEXT,
        make_batch: Callable[[Any], Any] = generation.Batch,
        shelf: Shelf | None = None,
    ) -> None:
        self.model, self.adapter_sha = model, adapter_sha
        self._models, self._tokenizer, self._prompt = loaded, tokenizer, prompt
        self._make_batch = make_batch
        self._end_of_turn = prompts.end_of_turn_id(tokenizer, prompt)
        positions = loaded["base"].config.get_text_config().max_position_embeddings
        self._context = min(max_context, positions)
        self._sequences: dict[str, _Sequence] = {}
        self._shelf = shelf
        self._shelved = Shelved(loaded["base"], lambda: self._batches["shelf"].keys)
        self._batches: dict[str, Any] = {}
        self.reset()

    def add(self, request: Request, ids: Sequence[int], text: str) -> Added:
        place: str = request.target
        name = None
        if request.target == "adapter" and request.adapter:
            place, name = "shelf", self._named(request.adapter)
        elif request.target not in self._models:
            raise EngineRefusalError("no_adapter", "this worker was started without an adapter")
        settings = request.settings
        prompt, left_out, given = self._encode(request)
        decoding = decoding_of(generation.decoding_of(self._models["base"], self._end_of_turn, 1), settings)
        # Position i draws number i, whoever draws it: another worker that goes on writes the same text.
        draws = generation.uniforms(request.seed, 0, 0, settings.max_new_tokens)
        if name:
            self._shelved.join(request.gid, name)
        with self._shelved.reading(name):
            self._batches[place].add(request.gid, [*prompt, *given], draws, decoding, written=list(ids))
        stream = TextStream(self._tokenizer, ids, before=given)
        self._sequences[request.gid] = _Sequence(place, stream, settings.max_new_tokens)
        return Added(len(prompt) + len(given), left_out)

    def _encode(self, request: Request) -> tuple[list[int], int, list[int]]:
        """The prompt, how many turns it leaves out, and what the answer begins with, as tokens."""
        found = encode(self._tokenizer, self._prompt, request, self._context)
        return found.prompt, found.left_out, found.given

    @torch.inference_mode()
    def look(self, request: Request, text: str, ended: bool) -> Seen:
        prompt, left_out, _ = self._encode(request)
        said = [*request.system, *request.said[left_out:]]
        messages = [{"role": turn.role, "content": turn.content} for turn in said]
        own = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        answer = [*own, *([self._end_of_turn] if ended else [])][: self._context - len(prompt)]
        if not answer:
            raise EngineRefusalError("too_long", "nothing of the answer fits beside its prompt")
        found = {}
        models: dict[Target, Any] = dict(self._models)
        name = None
        if request.target == "adapter" and request.adapter:
            name, models["adapter"] = self._named(request.adapter), self._shelved
        with self._shelved.reading(name):
            for target, model in models.items():
                found[target] = _read(model, self._tokenizer, prompt, answer)
        texts = TextStream(self._tokenizer)
        chosen = tuple(
            Chosen(texts.add(token), one, other, likely, others)
            for token, (one, likely), (other, others) in zip(
                answer, found["base"], found.get("adapter", [(None, ())] * len(answer)), strict=True
            )
        )
        shown, inner = DecodeStream(skip_special_tokens=False), self._tokenizer.backend_tokenizer
        pieces = tuple(
            Piece(shown.step(inner, token) or "", is_text)
            for ids, is_text in prompts.prompt_pieces(self._tokenizer, messages, self._prompt)
            for token in ids
        )
        return Seen(prompt=pieces, answer=chosen, turns_left_out=left_out)

    def offered(self) -> tuple[Offered, ...]:
        return self._shelf.offered() if self._shelf else ()

    def _named(self, adapter: str) -> str:
        """What PEFT calls an adapter of the shelf."""
        found = self._shelf.find(adapter) if self._shelf else None
        if found is None:
            raise EngineRefusalError("no_adapter", f"no adapter {adapter} on this base model")
        try:
            return self._shelved.name(*found)
        except loading.ModelError as error:
            raise EngineRefusalError("no_adapter", str(error)) from error

    def step(self) -> list[Step]:
        steps = []
        for batch in self._batches.values():
            if len(batch):
                steps += [self._told(gid, token) for gid, token in batch.step()]
        return steps

    def _told(self, gid: str, token: int | None) -> Step:
        sequence = self._sequences[gid]
        text = "" if token is None else sequence.stream.add(token)
        ids = () if token is None else (token,)
        if token is not None and len(sequence.stream.ids) < sequence.limit:
            return Step(gid, text, ids)
        del self._sequences[gid]
        finish: Literal["stop", "length"] = "stop" if token is None else "length"
        rest = sequence.stream.rest()
        if rest is None:
            return Step(gid, sequence.stream.whole(), ids, finish, replaces=True)
        return Step(gid, text + rest, ids, finish)

    def remove(self, gid: str) -> None:
        if sequence := self._sequences.pop(gid, None):
            self._batches[sequence.batch].remove(gid)

    def reset(self) -> None:
        self._sequences.clear()
        own: dict[Target, Any] = self._models
        self._batches = {str(target): self._make_batch(model) for target, model in own.items()}
        self._batches["shelf"] = self._make_batch(self._shelved)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        self.reset()


def _read(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: list[int], answer: list[int]
) -> list[tuple[float, tuple[Likely, ...]]]:
    """As `_likely`, for all of an answer."""
    ids, at, cache, found = [*prompt, *answer], 0, None, []
    for start in range(0, len(answer), LOOKED_AT_ONCE):
        part = answer[start : start + LOOKED_AT_ONCE]
        # What comes after the last token of the part is told by the next.
        end = len(prompt) + start + len(part) - 1
        read = torch.tensor([ids[at:end]], device=model.device)
        told = model(input_ids=read, past_key_values=cache, use_cache=True, logits_to_keep=len(part))
        found += _likely(tokenizer, told.logits[0], part)
        at, cache = end, told.past_key_values
    return found


def _likely(
    tokenizer: PreTrainedTokenizerBase, logits: torch.Tensor, answer: list[int]
) -> list[tuple[float, tuple[Likely, ...]]]:
    """For each token of an answer its probability, and the likeliest in its place; logits (tokens, vocabulary)."""
    probabilities = logits.float().softmax(-1)
    own = probabilities.gather(-1, torch.tensor(answer, device=logits.device).unsqueeze(-1)).squeeze(-1)
    best = probabilities.topk(min(ALTERNATIVES, probabilities.shape[-1]))
    return [
        (round(one, 6), tuple(Likely(tokenizer.decode([id]), round(p, 6)) for id, p in zip(ids, ps, strict=True)))
        for one, ids, ps in zip(own.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def load_engine(base_model: str | None, adapter: Path | None) -> TransformersEngine:
    """Load the base model and, if there is one, the adapter.

    Args:
        base_model: as BASE_MODEL names it; None: the one that the adapter was trained on.

    Raises:
        EngineError: if a model cannot be loaded, or if the adapter was trained with another chat template.
    """
    prompt, record = Prompt(), None
    if adapter is not None:
        record = read_adapter_record(adapter)
        prompt = Prompt(**record["prompt"])
        base_model = base_model or record["base_model"]
    if not base_model:
        raise EngineError("no model to load: set ADAPTER to an adapter's folder, or BASE_MODEL")
    settings = Model(base_model=base_model)
    try:
        tokenizer = loading.load_tokenizer(settings)
        if record is not None and adapter is not None:
            _check_template(tokenizer, prompt, record, adapter)
        loaded: dict[Target, PreTrainedModel] = {"base": loading.load_base(settings)}
        if adapter is not None:
            loaded["adapter"] = loading.load_adapter(settings, adapter)
        settle_threads(loaded["base"])
        own = loading.fingerprint(adapter) if adapter is not None else None
        return TransformersEngine(
            loaded,
            tokenizer,
            prompt,
            model=Path(base_model).name if Path(base_model).exists() else base_model,
            adapter_sha=own,
            shelf=Shelf(
                record["base_model"] if record else base_model, prompts.chat_template_hash(tokenizer, prompt), own
            ),
        )
    except (loading.ModelError, prompts.PromptError, prompts.ChatTemplateError) as error:
        raise EngineError(str(error)) from error


def settle_threads(model: PreTrainedModel) -> None:
    """Decode with one thread where more are hardly faster: site, Redis and browser then have the other cores.

    Threads that share a core with another process wait for each other, step by step.
    """
    if model.device.type == "cpu" and model.num_parameters() < FEW_PARAMETERS:
        torch.set_num_threads(1)


def _check_template(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, record: dict[str, Any], adapter: Path) -> None:
    own = prompts.chat_template_hash(tokenizer, prompt)
    if own != record["chat_template_sha256"]:
        raise EngineError(
            f"the adapter in {adapter} was trained with another chat template (SHA-256 "
            f"{record['chat_template_sha256'][:12]}…) than this base model's tokenizer has ({own[:12]}…), so it would "
            "be asked in a form that it never saw; set BASE_MODEL to the base model that it was trained on"
        )
