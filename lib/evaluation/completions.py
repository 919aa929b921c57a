"""A model's completions of the test rows and of this project's own prompts: which they are, what the model wrote, and
where that is stored.
"""

import os
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from lib import code
from lib.config import OWN_TOKENS, Config, ConfigError
from lib.corpus import selection, splits
from lib.model import generation, loading
from lib.model.generation import Decoding, HasDefaults
from lib.model.prompts import asked, chat_template_hash, conversation, earlier, encode_prompt, end_of_turn_id
from lib.sampling.draws import spread

#: `clean`: rows of groups that were kept apart. `paper`: single rows that sampling left over, leaks and all. `greedy`:
#: the clean rows again, always with the likeliest token.
PROTOCOLS = ("clean", "paper", "greedy")
#: Prompts that belong to no corpus, completed greedily too: the report shows them, and nothing scores them.
OWN = "own"
#: And those to begin a chat with (`lib.evaluation.starters`).
STARTERS = "starters"
#: The rows of `shown` have at most so many characters, prompt and output together.
SHOWN_CHARACTERS = 200
_GREEDY = ("greedy", OWN, STARTERS)
_OWN_PROMPTS = Path(__file__).parent / "tables" / "prompts.toml"


def test_rows(config: Config, split: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The test rows of each protocol, spread evenly over the subsets.

    Clean and greedy: the same distinct rows of test groups. Paper: rows that no sampling drew, as they come; their
    copies, other prompts for their outputs and near-duplicates may have been trained on, as in a random split of the
    rows.

    Returns:
        By protocol, indexed by position in the corpus file: subset_name, input, output; turns where rows may be
        conversations.
    """
    sides = {"clean": split[split["split"] == "test"].drop_duplicates("pair"), "paper": split[split["left_over"]]}
    tests = {}
    for protocol, side in sides.items():
        places = spread(side["subset"].to_numpy(), config.evaluation.test_rows, config.corpus.split_seed)
        chosen = side.index.to_numpy()[places]
        rows = selection.read(config.paths.rows, chosen, columns=["subset_name", "input", "output", "turns"])
        tests[protocol] = rows.set_index(chosen)
    return tests | {"greedy": tests["clean"]}


def own_prompts() -> dict[str, pd.DataFrame]:
    """This project's own prompts in the order of their file, in the form of `test_rows`: subset_name, input."""
    listed = tomllib.loads(_OWN_PROMPTS.read_text(encoding="utf-8")).values()
    table = pd.DataFrame(listed).rename(columns={"subset": "subset_name", "prompt": "input"})
    return {OWN: table}


def load_model(config: Config) -> PreTrainedModel:
    """The model that is evaluated: the iteration's adapter on the base, or the base itself."""
    if config.has_adapter:
        return loading.load_adapter(config.model, config.paths.adapter(config.name))
    return loading.load_base(config.model)


def origin(config: Config) -> dict[str, Any]:
    """What a model's completions and losses depend on, apart from the rows: other files are not continued."""
    return {
        "model": asdict(config.model),
        "base": loading.base_fingerprint(config.model),
        "adapter": loading.fingerprint(config.paths.adapter(config.name)) if config.has_adapter else None,
        "chat_template_sha256": chat_template_hash(loading.load_tokenizer(config.model), config.prompt),
        "prompt": asdict(config.prompt),
        "instruction": config.evaluation.instruction,
        "shown": shown(config),
        "code": code.fingerprint("model", "evaluation"),
    }


def shown(config: Config) -> list[tuple[str, str]]:
    """Prompts and outputs that stand before every prompt as earlier turns (`evaluation.shown_rows`).

    Rows that a sampling may draw, and so no protocol tests, that are short and no conversations; of as many subsets as
    there are, and the same for every prompt.

    Raises:
        ConfigError: if there are not that many.
    """
    wanted = config.evaluation.shown_rows
    if not wanted:
        return []
    split = splits.read(config)
    positions = split.index[(split["split"] == "train") & ~split["left_over"]].to_numpy()
    rows = selection.read(config.paths.rows, positions, columns=["subset_name", "input", "output", "turns"])
    if "turns" in rows:
        rows = rows[rows["turns"].isna()]
    rows = rows[rows["input"].str.len() + rows["output"].str.len() <= SHOWN_CHARACTERS]
    if len(rows) < wanted:
        raise ConfigError(
            f"evaluation.shown_rows = {wanted}, and the training side has only {len(rows)} rows to show: no "
            f"conversations, and of at most {SHOWN_CHARACTERS} characters, prompt and output together. Lower it, or "
            "add short rows"
        )
    places = spread(rows["subset_name"].to_numpy(), wanted, config.corpus.split_seed)
    return list(rows.iloc[places][["input", "output"]].itertuples(index=False, name=None))


def decoding_of(config: Config, model: HasDefaults, end_of_turn: int, protocol: str = "clean") -> Decoding:
    """How a protocol's completions are decoded: as the run's settings say, but greedily where that is the protocol, or
    the prompts are our own.
    """
    settings = config.evaluation
    return generation.decoding_of(
        model,
        end_of_turn,
        OWN_TOKENS if protocol in (OWN, STARTERS) else settings.max_new_tokens,
        do_sample=settings.do_sample and protocol not in _GREEDY,
        temperature=settings.temperature or None,
        top_p=settings.top_p or None,
        top_k=None if settings.top_k == -1 else settings.top_k,
    )


def complete(config: Config, tests: dict[str, pd.DataFrame], runs: int | None = None) -> None:
    """Write the completions of one model on the rows of each protocol.

    What an interrupted call wrote is kept. Where ENGINE_URL names a server, the server decodes (`lib.model.served`).

    Args:
        tests: by protocol (or of `own_prompts`), rows with the column input, whose index numbers them.
        runs: decoding runs; as many as the settings say where None. Greedy completions are made once.
    """
    tokenizer, settings = loading.load_tokenizer(config.model), config.evaluation
    made_by = origin(config)
    if url := os.environ.get("ENGINE_URL"):
        # Not needed where this process decodes.
        from lib.model import served

        model: Any = served.connect(url, config)
        by: dict[str, Any] = {"complete": served.complete}
        made_by |= {"server": model.name}
    else:
        model, by = load_model(config), {}
    for protocol, rows in tests.items():
        decoding = decoding_of(config, model, end_of_turn_id(tokenizer, config.prompt), protocol)
        room = config.prompt.max_evaluation_tokens - decoding.max_new_tokens
        own_runs = 1 if protocol in _GREEDY else runs or settings.decoding_runs
        prompts = {
            int(row): encode_prompt(
                tokenizer,
                conversation(prompt, settings.instruction, made_by["shown"]),
                config.prompt,
                room,
                earlier(prompt),
            )[0]
            for row, prompt in zip(rows.index, asked(rows), strict=True)
        }
        generation.write_completions(
            model,
            tokenizer,
            prompts,
            config.paths.completions(config.name, protocol),
            decoding=decoding,
            runs=own_runs,
            seed=settings.decoding_seed,
            # As many sequences together, however few runs there are of each prompt.
            batch_rows=settings.batch_rows * settings.decoding_runs // own_runs,
            settings=made_by,
            label=f"completing {config.name}, {protocol}",
            **by,
        )


def read(config: Config, tests: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The written completions beside what they are scored against.

    Returns:
        Columns protocol, row, run, text, ids, subset, prompt, and reference (own prompts have none). The text is what
        the ids say.
    """
    tokenizer, parts = loading.load_tokenizer(config.model), []
    for protocol, rows in tests.items():
        table = pd.DataFrame(generation.read_completions(config.paths.completions(config.name, protocol)))
        table["text"] = [generation.text_of(tokenizer, ids) for ids in table["ids"]]
        known = rows.drop(columns="turns", errors="ignore").rename(
            columns={"subset_name": "subset", "input": "prompt", "output": "reference"}
        )
        parts.append(table.assign(protocol=protocol).join(known, on="row"))
    return pd.concat(parts, ignore_index=True)
