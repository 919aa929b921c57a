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

#: Tokens that are read together, where one text alone has no more: attention is computed between any two of them.
_TOKENS_TOGETHER = 256
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
        raise HarnessError(
            f"the files of the benchmark {name!r} cannot be had from the hub ({hub.first_line(error)}). Check the "
            "network and run again, or leave it out of BENCHMARKS"
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


class Scorer(HFLM):
    """The harness's own model class, but for the log-likelihoods of tokens.

    For models whose layers are all of attention: what several texts begin with is kept apart by the attention mask.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, label: str = "") -> None:
        # Of whole texts it hands over so many at a time: all of them, so that they can be put in order.
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1_000_000)
        self._label = label

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """The log-likelihood (nats) of each continuation, and whether it is the likeliest, token by token."""
        # Too long a text loses its beginning, and the last token predicts nothing: as in the harness.
        texts = [(context + continuation)[-self.max_length - 1 :] for _, context, continuation in requests]
        answers = [(0.0, False)] * len(requests)
        with tqdm(total=len(texts), desc=self._label, unit="text", disable=disable_tqdm) as progress:
            for ids, paths in _trees([text[:-1] for text in texts]):
                # Each token is predicted at the place before it.
                predicting = {place: path[-len(requests[place][2]) :] for place, path in paths.items()}
                scored = sorted({at for some in predicting.values() for at in some})
                logits = self._logits(ids, list(paths.values()), scored)
                # As in the harness: the sum of exponentials, taken by another function, differs in the fifth digit.
                known = log_softmax(logits, dim=-1)
                likeliest = known.amax(-1)
                row_of = {at: row for row, at in enumerate(scored)}
                for place, some in predicting.items():
                    rows = torch.tensor([row_of[at] for at in some], device=logits.device)
                    tokens = torch.tensor(texts[place][-len(some) :], device=logits.device)
                    nats = known[rows, tokens]
                    answers[place] = float(nats.sum()), bool((nats == likeliest[rows]).all())
                progress.update(len(paths))
        return answers

    def _logits(self, ids: list[int], paths: list[list[int]], scored: list[int]) -> torch.Tensor:
        """The logits at some places of a tree, in 32 bits, shape (places, tokens of the vocabulary)."""
        seen = np.zeros((len(ids), len(ids)), dtype=bool)
        positions = np.zeros(len(ids), dtype=np.int64)
        for path in paths:
            seen[np.ix_(path, path)] |= np.tri(len(path), dtype=bool)
            positions[path] = range(len(path))
        made = self.model(
            input_ids=torch.tensor([ids], device=self.device),
            attention_mask=torch.from_numpy(seen).to(self.device)[None, None],
            position_ids=torch.from_numpy(positions).to(self.device)[None],
            logits_to_keep=torch.tensor(scored, device=self.device),
            use_cache=False,
        )
        return made.logits[0].float()


def _trees(texts: list[list[int]]) -> Iterator[tuple[list[int], dict[int, list[int]]]]:
    """Texts as trees of tokens, in which those that begin alike share their beginning.

    Yields:
        The tokens of a tree, and for the place of each of its texts where its tokens are among them, in order.
    """
    ids: list[int] = []
    paths: dict[int, list[int]] = {}
    before: list[int] = []
    for place in sorted(range(len(texts)), key=texts.__getitem__):
        text = texts[place]
        shared = _shared(before, text)
        if ids and len(ids) + len(text) - shared > _TOKENS_TOGETHER:
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
