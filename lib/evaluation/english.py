"""What the adapter costs English, and which language the completions are in.

The paper reads its falling Weighted F1 as forgetting, and measures no English. Here every model, the base and each
adapter, reads and answers the same English rows.

The demo's base model read English conversations of all twins in its pretraining, those of test rows too, so its loss
on them does not measure generalisation: how much the adapter raises it measures forgetting. Which rows from elsewhere
the base model has read is unknown.
"""

import hashlib
import json

import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lib.config import Config, Prompt
from lib.corpus import selection, splits
from lib.corpus.files import CorpusError
from lib.demo import generator
from lib.evaluation import completions, language, metrics
from lib.model import loading
from lib.model.prompts import Example, encode_example, to_messages, to_sharegpt
from lib.sampling.draws import spread
from lib.storage import whole, write_json

_COLUMNS = ["subset_name", "input", "output"]
# Of padded tokens: the logits of one batch over Llama's 128,256 tokens then take 2 GB at 32 bits.
_TOKENS_PER_BATCH = 4_096


def held_out(config: Config) -> pd.DataFrame:
    """The distinct English rows that no training of this run has seen a translation of, spread evenly over the subsets.

    For `demo` these are the English twins of the run's test rows (of all rows, where the run's corpus is another);
    else the rows of the named corpus, which nothing ties to the Indonesian one.

    Returns:
        Indexed by position in the English corpus: subset_name, input, output. No rows if `english.source` is empty.

    Raises:
        CorpusError: if the named corpus cannot be used, or leaves no row.
    """
    source = config.english.source
    if not source:
        return pd.DataFrame(columns=_COLUMNS)
    rows = _twins(config) if source == "demo" else _rows(config)
    rows = rows.drop_duplicates(["input", "output"])
    if rows.empty:
        raise CorpusError(f"english.source = {source!r} leaves no row to measure English on: name another, or none")
    return rows.iloc[spread(rows["subset_name"].to_numpy(), config.english.rows, config.corpus.split_seed)]


def _twins(config: Config) -> pd.DataFrame:
    """The English pairs whose Indonesian pair is neither on the training nor on the validation side."""
    english = {
        (subset, pair.key, pair.wording): pair for subset, some in generator.subsets("en").items() for pair in some
    }
    rows, pairs = [], []
    for subset, some in generator.subsets("id").items():
        for pair in some:
            twin = english[subset, pair.key, pair.wording]
            rows.append((subset, twin.prompt, twin.completion))
            pairs.append(splits.pair_of(pair.prompt, pair.completion))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    sides = splits.read(config).drop_duplicates("pair").set_index("pair")["split"]
    seen = pd.Series(pairs).map(sides).isin(["train", "validation"])
    # Two Indonesian wordings may be one in English: a twin that is on both sides counts as seen.
    texts = table["input"] + "\0" + table["output"]
    return table[~texts.isin(texts[seen])]


def _rows(config: Config) -> pd.DataFrame:
    try:
        selection.select(selection.located(config.english.source), config.paths.english_rows)
    except CorpusError as error:
        raise CorpusError(f"english.source = {config.english.source!r} cannot be used: {error}") from error
    return selection.read(config.paths.english_rows, columns=_COLUMNS)


@torch.inference_mode()
def loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: pd.DataFrame, settings: Prompt
) -> tuple[float, int]:
    """The mean loss of the rows' completions in nats a token, and how many tokens that is over.

    Prompts do not count, the end of a turn counts as in training, and a row is cut to `max_evaluation_tokens`.

    Raises:
        ValueError: if no row can be encoded.
    """
    encoded = [
        encode_example(tokenizer, to_messages(to_sharegpt(prompt, output)), settings, settings.max_evaluation_tokens)
        for prompt, output in zip(rows["input"], rows["output"], strict=True)
    ]
    examples = sorted((e for e in encoded if e is not None), key=lambda e: len(e.input_ids))
    if not examples:
        raise ValueError(f"none of {len(rows)} rows can be encoded, so there is no loss: raise max_evaluation_tokens")
    total, tokens = 0.0, 0
    with tqdm(total=len(examples), desc="loss on English", unit="row") as progress:
        for batch in _batches(examples):
            ids, trained = _padded(batch, model.device)
            # Attention is causal, so padding at the end needs no mask.
            logits = model(input_ids=ids).logits[:, :-1]
            # The token before a trained one predicts it.
            logits, targets = logits[trained[:, 1:]], ids[:, 1:][trained[:, 1:]]
            total += cross_entropy(logits.float(), targets, reduction="sum").item()
            tokens += len(targets)
            progress.update(len(batch))
    return total / tokens, tokens


def _batches(examples: list[Example]) -> list[list[Example]]:
    """Examples in rising order of length, as many in a batch as fit padded to its longest, at least one."""
    made: list[list[Example]] = [[]]
    for example in examples:
        if made[-1] and len(example.input_ids) * (len(made[-1]) + 1) > _TOKENS_PER_BATCH:
            made.append([])
        made[-1].append(example)
    return made


def _padded(batch: list[Example], where: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and loss mask (boolean), each of shape (batch, longest), padded at the end."""
    longest = max(len(example.input_ids) for example in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    trained = torch.zeros_like(ids, dtype=torch.bool)
    for n, example in enumerate(batch):
        length = len(example.input_ids)
        ids[n, :length] = torch.tensor(example.input_ids)
        trained[n, :length] = torch.tensor(example.loss_mask, dtype=torch.bool)
    return ids.to(where), trained.to(where)


def _loss(config: Config, rows: pd.DataFrame) -> float:
    """The model's loss on the rows, from its file where that is of the same model and rows."""
    path = config.paths.english_loss(config.name)
    texts = hashlib.sha256(rows[["input", "output"]].to_json(orient="values").encode()).hexdigest()
    origin = completions.origin(config) | {"rows": texts}
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["origin"] == origin:
            return known["loss"]
    value, tokens = loss(completions.load_model(config), loading.load_tokenizer(config.model), rows, config.prompt)
    write_json(path, {"loss": value, "tokens": tokens, "origin": origin})
    return value


def measure(config: Config, completions: pd.DataFrame) -> pd.DataFrame:
    """What one model does on English, and the language of its Indonesian completions; written to a file too.

    Args:
        completions: on the Indonesian test rows (table of `completions.read`); of them, the clean protocol's.

    Returns:
        Tidy as in results.csv. Protocol `clean`: `indonesian_share` of every decoding run, and of the references
        (`reference_indonesian_share`), 0 to 1. Protocol `english`, unless `english.source` is empty: `loss` in nats a
        token, `rougeL` 0 to 100 of one decoding run, `english_share` and `reference_english_share`, 0 to 1.
    """
    completions = completions[completions["protocol"] == "clean"]
    found = [
        ("clean", run, "indonesian_share", language.indonesian_share(part["text"].tolist()))
        for run, part in completions.groupby("run")
    ]
    references = completions.drop_duplicates("row")["reference"].tolist()
    found.append(("clean", 0, "reference_indonesian_share", language.indonesian_share(references)))
    rows = held_out(config)
    if len(rows):
        found += [("english", 0, metric, value) for metric, value in _english(config, rows).items()]
    table = pd.DataFrame(found, columns=["protocol", "decoding_run", "metric", "value"])
    table.insert(0, "iteration", config.iteration)
    table.insert(1, "seed", config.seed)
    with whole(config.paths.language(config.name)) as temporary:
        table.to_csv(temporary, index=False)
    return table


def _english(config: Config, rows: pd.DataFrame) -> dict[str, float]:
    tests = {"english": rows}
    completions.complete(config, tests, runs=1)
    texts = completions.read(config, tests)
    return {
        "loss": _loss(config, rows),
        "rougeL": metrics.rouge(texts["text"].tolist(), texts["reference"].tolist())["rougeL"],
        "english_share": language.english_share(texts["text"].tolist()),
        "reference_english_share": language.english_share(texts["reference"].tolist()),
    }
