"""lm-evaluation-harness on a model in hand: its tasks and its scores, with a batching of our own.

The harness reads every choice of an item with its whole context, and makes logits for all of it. Here what several
texts begin with is read once, and logits are made only where a token is scored. The log-likelihoods are those of the
harness to rounding.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx
import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch.nn.functional import log_softmax
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lib import hub

#: Of a tree, where one text alone has no more: attention is computed between any two of its tokens.
_TOKENS_PER_TREE = 128
#: Of padded trees: their logits over Llama's 128,256 tokens then take a quarter of a GB at 32 bits.
_TOKENS_PER_BATCH = 512
#: As the harness reads them, which pads them to the longest.
_TEXTS_PER_BATCH = 8
#: Tokens of which each follows another one of them, and for the place of each text where its tokens are, in order.
_Tree = tuple[list[int], dict[int, list[int]]]
#: The command line's own, for tasks with examples in their prompts.
_FEWSHOT_SEED = 1234
_COLUMNS = ["task", "item", "texts", "loglikelihoods", "correct", "chance", "nats", "bytes"]


class HarnessError(ValueError):
    """A task that cannot be had or scored; the message says why, and what to do."""


def score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Mapping[str, Task], label: str = ""
) -> pd.DataFrame:
    """Every item of some tasks, as the harness scores it without a chat template.

    Args:
        tasks: by name, of `own` or `from_hub`.
        label: of the progress bar.

    Returns:
        `task`, `item` (its number in the task), `texts` (its own, as far as they have four words), `loglikelihoods`
        (nats, of each choice given its context, or of the whole text). Of choices, `correct` (0 or 1: whether the
        likeliest is right) and `chance` (of being right by guessing); of whole texts, `nats` and `bytes` of UTF-8. NaN
        where an item has none.
    """
    for task in tasks.values():
        # As `simple_evaluate` does, which the command line calls.
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    with _quiet():
        found = evaluate(Scorer(model, tokenizer, label), {"tasks": dict(tasks), "groups": {}}, bootstrap_iters=0)
    lines = [_line(name, tasks[name], sample) for name, samples in found["samples"].items() for sample in samples]
    return pd.DataFrame(lines, columns=_COLUMNS)


def _line(name: str, task: Task, sample: dict[str, Any]) -> dict[str, Any]:
    line = {"task": name, "item": sample["doc_id"], "texts": list(_strings(sample["doc"]))}
    if "bits_per_byte" in sample:
        found, size = sample["bits_per_byte"]
        return line | {"loglikelihoods": [found], "nats": -found, "bytes": size}
    right = sample["target"] if isinstance(sample["target"], list) else [sample["target"]]
    return line | {
        "loglikelihoods": [float(loglikelihood) for loglikelihood, _ in sample["filtered_resps"]],
        "correct": sample["acc"],
        "chance": len(right) / len(task.doc_to_choice(sample["doc"])),
    }


def _strings(value: Any) -> Iterator[str]:
    """The texts of an item, however deep; a label of a word or two is none."""
    if isinstance(value, str):
        if value.count(" ") >= 3:
            yield value
    elif isinstance(value, Mapping | Sequence):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(part)


def own(name: str, rows: list[dict[str, Any]], kind: str, **asked: Any) -> Task:
    """A task on rows that are here.

    Args:
        kind: multiple_choice, scored by accuracy, or loglikelihood_rolling, by bits a byte.
        asked: how an item becomes a prompt, choices and an answer, in the words of the harness's YAML files.
    """
    metric, higher = ("acc", True) if kind == "multiple_choice" else ("bits_per_byte", False)
    config: dict[str, Any] = {"task": name, "test_split": "test", "output_type": kind, **asked}
    # In memory: from a file, the library would keep a copy of its own.
    config["custom_dataset"] = lambda **_: DatasetDict(test=Dataset.from_list(rows))
    config["metric_list"] = [
        {"metric": metric, "aggregation": "mean" if higher else metric, "higher_is_better": higher}
    ]
    with _quiet():
        return ConfigurableTask(config=config)


def known() -> list[str]:
    """The names of all tasks and groups that the harness brings. Takes half a minute, once."""
    return list(_manager().all_tasks)


def from_hub(name: str) -> dict[str, Task]:
    """A task of the harness, or all of a group, with their files from the hub.

    Raises:
        HarnessError: if the files cannot be fetched, or if a task does not ask for one of several choices.
    """
    try:
        with _quiet():
            tasks = _manager().load([name])["tasks"]
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        cure = hub.full_cache(error) or "Check the network and run again"
        raise HarnessError(
            f"the files of the benchmark {name!r} cannot be had from the hub ({hub.first_line(error)}). {cure}, or "
            "leave it out of BENCHMARKS"
        ) from error
    for one, task in tasks.items():
        if task.OUTPUT_TYPE != "multiple_choice" or "acc" not in task.aggregation():
            raise HarnessError(
                f"the benchmark {one!r} is of the kind {task.OUTPUT_TYPE}, and only the accuracy of multiple_choice is "
                "scored here: leave it out of BENCHMARKS"
            )
    return dict(tasks)


@cache
def _manager() -> TaskManager:
    return TaskManager()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's warnings: of a model that is loaded already, and of metrics without an aggregation."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def sees_all(model: PreTrainedModel) -> bool:
    """Whether every layer is of attention over all tokens before, so that an attention mask can keep texts apart."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    # A window is that of some layers, or where no kinds of layers are told, of all.
    all_see = set(kinds) == {"full_attention"} if kinds else not getattr(config, "sliding_window", None)
    return all_see and not model._is_stateful


class Scorer(HFLM):
    """The harness's own model class, but for the log-likelihoods of tokens of models in which every token sees all
    before it: what several texts begin with is read once, and kept apart by the attention mask. Other models, with
    windows of attention or with a state instead, are read as the harness reads them.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, label: str = "") -> None:
        # Of whole texts it hands over so many at a time: all of them, so that they can be put in order.
        self._sees_all = sees_all(model)
        together = 1_000_000 if self._sees_all else _TEXTS_PER_BATCH
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=together)
        self._label = label

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """The log-likelihood (nats) of each continuation, and whether it is the likeliest, token by token."""
        if not self._sees_all:
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        # Too long a text loses its beginning, and the last token predicts nothing: as in the harness.
        texts = [(context + continuation)[-self.max_length - 1 :] for _, context, continuation in requests]
        answers = [(0.0, False)] * len(requests)
        with tqdm(total=len(texts), desc=self._label, unit="text", disable=disable_tqdm) as progress:
            for batch in _batches([text[:-1] for text in texts]):
                # Each token is predicted at the place before it, which several texts may share.
                places = {at: path[-len(requests[at][2]) :] for _, paths in batch for at, path in paths.items()}
                scored = [sorted({n for at in paths for n in places[at]}) for _, paths in batch]
                logits = self._logits(batch, scored).split([len(some) for some in scored])
                for (_, paths), some, own in zip(batch, scored, logits, strict=True):
                    # As in the harness: the sum of exponentials, taken by another function, differs in the fifth digit.
                    known = log_softmax(own, dim=-1)
                    likeliest, row_of = known.amax(-1), {n: row for row, n in enumerate(some)}
                    for at in paths:
                        rows = torch.tensor([row_of[n] for n in places[at]], device=known.device)
                        nats = known[rows, torch.tensor(texts[at][-len(rows) :], device=known.device)]
                        answers[at] = float(nats.sum()), bool((nats == likeliest[rows]).all())
                progress.update(len(places))
        return answers

    def _logits(self, batch: list[_Tree], scored: list[list[int]]) -> torch.Tensor:
        """The logits at some places of each tree, in 32 bits, shape (places of all, tokens of the vocabulary)."""
        longest = max(len(ids) for ids, _ in batch)
        read, positions = (np.zeros((len(batch), longest), dtype=np.int64) for _ in range(2))
        # What pads a tree sees itself: what sees nothing is not a number, and spoils all that is multiplied with it.
        seen = np.eye(longest, dtype=bool)[None].repeat(len(batch), axis=0)
        for n, (ids, paths) in enumerate(batch):
            read[n, : len(ids)] = ids
            for path in paths.values():
                seen[n][np.ix_(path, path)] |= np.tri(len(path), dtype=bool)
                positions[n, path] = range(len(path))
        where = torch.tensor([(n, at) for n, some in enumerate(scored) for at in some], device=self.device).T
        # The model makes logits of nothing else, by whatever it does to them besides.
        hook = self.model.get_output_embeddings().register_forward_pre_hook(
            lambda _, given: (given[0][where[0], where[1]][None],)
        )
        try:
            made = self.model(
                input_ids=torch.from_numpy(read).to(self.device),
                attention_mask=torch.from_numpy(seen).to(self.device)[:, None],
                position_ids=torch.from_numpy(positions).to(self.device),
                use_cache=False,
            )
        finally:
            hook.remove()
        return made.logits[0].float()


def _batches(texts: list[list[int]]) -> Iterator[list[_Tree]]:
    """The trees of some texts in rising order of length, as many as fit padded to the longest, at least one."""
    batch: list[_Tree] = []
    for tree in sorted(_trees(texts), key=lambda tree: len(tree[0])):
        if batch and len(tree[0]) * (len(batch) + 1) > _TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def _trees(texts: list[list[int]]) -> Iterator[_Tree]:
    """Texts as trees of tokens, in which those that begin alike share their beginning."""
    ids: list[int] = []
    paths: dict[int, list[int]] = {}
    before: list[int] = []
    for place in sorted(range(len(texts)), key=texts.__getitem__):
        text = texts[place]
        shared = _shared(before, text)
        if ids and len(ids) + len(text) - shared > _TOKENS_PER_TREE:
            yield ids, paths
            ids, paths, shared = [], {}, 0
        path = paths[next(reversed(paths))][:shared] if shared else []
        paths[place] = [*path, *range(len(ids), len(ids) + len(text) - shared)]
        ids += text[shared:]
        before = text
    if ids:
        yield ids, paths


def _shared(one: list[int], other: list[int]) -> int:
    """How many tokens two texts have in common from the beginning."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
