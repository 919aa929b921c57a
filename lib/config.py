"""Every setting of the study, declared once.

The defaults are the paper's chosen configuration (Table 2, row 5). A profile (`notebooks/parameters/<profile>.toml`)
changes them, then an iteration (`notebooks/parameters/iterations/<n>.toml`), then what the command line names
(run, corpus, base model). A setting belongs to one section, and a stage of the pipeline is given only the sections
named in `STAGES`: so a changed setting reruns the stages that can see it and no others.
"""

import difflib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields

from lib.paths import SHARED, RunPaths

#: Rows of the six subsets in the Cendol Collection v2 (paper, section on the corpus): what a share refers to.
PAPER_CORPUS_ROWS = 6_542_630


@dataclass(frozen=True)
class Corpus:
    """Where the rows come from, and how test rows are kept apart from training rows."""

    source: str = "indonlp/cendol_collection_v2"
    """`demo`, `open`, a hub dataset id, or a file, glob or folder in a format that lib/corpus/formats.py recognises."""
    subsets: str = ""
    """The column that names each row's subset, all of which are then used; `none` for no subsets. Empty: the six of the
    paper where a corpus has Cendol's columns, else none."""
    near_duplicate_similarity: float = 0.6
    """Jaccard similarity from which two texts count as near-duplicates: of word 3-grams, and in texts of at most 64
    words also of character 5-grams."""
    generic_after: int = 10
    """A prompt with more distinct outputs than this is generic, so it ties no rows together; nor does an output of at
    most three words."""
    test_share: float = 0.1
    validation_share: float = 0.05
    split_seed: int = 0


@dataclass(frozen=True)
class Sampling:
    """Which training rows are drawn (Table 2, column "sampling")."""

    method: str = "per_subset"
    """`random` (rows in all), `per_subset` (rows from each subset) or `stratified` (a share of the corpus, each subset
    in proportion)."""
    rows: int = 3_500
    share: float = 0.0
    """For `stratified`: the share of the paper's 6,542,630 rows; `rows` is then ignored."""
    clusters: int = 10
    """K of K-means on the embedded outputs; 0 for none."""
    rows_per_cluster: int = 1_000
    validation_rows: int = 2_000
    redraw: bool = False
    """Whether a training seed draws the sample again as well. Otherwise all seeds train on the same rows, and the
    spread over seeds leaves out that of the draw."""
    tsne_rows: int = 10_000
    """How many of the drawn rows the t-SNE figure shows at most."""


@dataclass(frozen=True)
class Model:
    """The frozen base model."""

    base_model: str = "unsloth/Llama-3.2-1B-Instruct-bnb-4bit"
    """`demo`, a model that a package carries (lib/model/packaged.py), a hub id, a folder, or a .gguf file."""


@dataclass(frozen=True)
class Prompt:
    """From a row to token ids (Table 1)."""

    date: str = "26 July 2024"
    """The date that the chat template writes into the system turn: pinned, or the prompt would change every day."""
    bos_tokens: int = 1
    """Beginning-of-text tokens in front of an example. The paper trained with two, by accident (Table 1)."""
    max_train_tokens: int = 2_048
    max_evaluation_tokens: int = 1_024
    min_answer_tokens: int = 16
    """A training example keeps at least this much of its answer (or all of it), or it is dropped."""


@dataclass(frozen=True)
class Lora:
    """The adapter's shape."""

    lora_rank: int = 32
    lora_alpha: int = 16
    use_rslora: bool = True
    """Scale by alpha / sqrt(rank) instead of alpha / rank."""
    loraplus_lr_ratio: float = 16.0
    """eta_B / eta_A. The paper does not give its own; 16 is the LoRA+ authors' usual choice."""


@dataclass(frozen=True)
class Training:
    """One training."""

    learning_rate: float = 2e-4
    """eta_A; B learns `loraplus_lr_ratio` times faster."""
    schedule: str = "cosine"
    epochs: float = 5.0
    batch_size: int = 8
    """Examples an optimizer step."""
    warmup_share: float = 0.03
    """Share of the steps over which the rate rises from 0."""
    checkpoints: int = 5
    """Checkpoints (and validation losses) over the whole training."""
    backend: str = "auto"
    """`auto` (unsloth on a GPU where it is installed, else PEFT), `unsloth` or `peft`: see lib/training/backend.py."""
    dtype: str = "auto"
    """Of the frozen weights in training: `float32`, `bfloat16`, `auto` (32 bits on a CPU, 16 on a GPU) or `fastest`
    (the same, but bfloat16 on a CPU that multiplies it faster). Adapter, loss and optimizer always have 32 bits."""


@dataclass(frozen=True)
class Evaluation:
    """How completions are drawn and scored (Table 3)."""

    test_rows: int = 9_800
    decoding_runs: int = 5
    decoding_seed: int = 0
    do_sample: bool = True
    """Or always the likeliest token. `generate` of transformers leaves this to the model; here a run says it. The clean
    test rows are completed once more with the likeliest tokens in any case (protocol `greedy`)."""
    temperature: float = 0.0
    """0.0: the base model's own (its generation_config.json), or where it has none that of transformers: 1.0."""
    top_p: float = 0.0
    """0.0: the base model's own, or that of transformers: 1.0, which leaves no token out."""
    top_k: int = -1
    """-1: the base model's own, or that of transformers: 50. 0 sets no limit."""
    max_new_tokens: int = 48
    reference_tokens: int = 48
    """References are cut to as many tokens as completions may have, as in the paper; 0 leaves them whole."""
    f1_tokens: int = 32
    """Weighted F1 looks at the first 32 tokens of the same completions: what a run with 32 new tokens would write."""
    f1_similarity: float = 0.5
    batch_rows: int = 64
    """Prompts decoded together; each with all its decoding runs."""
    instruction: str = ""
    """What every prompt is preceded by."""
    shown_rows: int = 0
    """How many rows of the training side stand before every prompt, as earlier turns of the conversation."""


@dataclass(frozen=True)
class English:
    """What the adapter costs English: rows in English that every model is measured on too."""

    source: str = ""
    """`demo` for the English twin of the demo's test rows; else a hub dataset id, or a file, glob or folder in
    Cendol's schema that holds English rows; empty: English is not measured."""
    rows: int = 1_000


@dataclass(frozen=True)
class Benchmarks:
    """Which benchmarks of others every model is measured on."""

    tasks: str = ""
    """Words separated by spaces: of `BENCHMARKS`, or tasks and groups of lm-evaluation-harness by their names; empty
    for none."""


@dataclass(frozen=True)
class Preference:
    """What `make preference` does after a run: the final adapter is trained further on people's votes, by DPO."""

    beta: float = 0.1
    """How strongly the adapter is held to what it was before: the less, the farther it may go."""
    learning_rate: float = 1e-4
    """Of A and B alike."""
    epochs: float = 3.0
    batch_size: int = 8
    """Votes an optimizer step."""
    warmup_share: float = 0.1
    least_votes: int = 30
    """Fewer than these, counted after some were left out, are not trained on."""
    held_out_share: float = 0.2
    """Of the votes: they are not trained on, and show whether what others taught holds for them."""


@dataclass(frozen=True)
class Plan:
    """What a run consists of where the command line says nothing, and what is said of it before it begins."""

    iterations: str = "5"
    """Rows of Table 2, or variants of studies by their names, separated by spaces; or `all` rows."""
    seeds: str = "0"
    """Of the trainings. In a variant's file: its own, whatever the others have."""
    studies: str = ""
    """Of `STUDIES`, or `all`."""
    trained: bool = True
    """In a variant's file: whether it has an adapter. One that has none is the base model, asked in other words."""
    scored: bool = True
    """In a variant's file: whether it is evaluated. A try is not: its validation loss is all that is asked of it."""
    question: str = ""
    """What the run is to find out, in the words that the report shows first: contrast, outcome, smallest effect."""
    smallest_effect: float = 0.0
    """Of the first outcome of `question`: a smaller difference counts as none. 0 where nothing was stated."""


@dataclass(frozen=True)
class Config:
    """All settings of one run and one iteration."""

    run: str = "paper"
    profile: str = "paper"
    iteration: str = "5"
    seed: int = 0
    scale: float = 1.0
    """One factor on every count of rows (never on K, epochs or tokens): how the demo is made small."""
    sampled_as: str = "5"
    """The first iteration that samples alike: its sample is used for this one too. With the seed where seeds differ."""
    prepared_as: str = "5"
    """The first iteration with the same examples."""
    trained_as: str = "5"
    """The first iteration that is equal in every setting: its adapter and scores are this one's too."""
    corpus: Corpus = field(default_factory=Corpus)
    sampling: Sampling = field(default_factory=Sampling)
    model: Model = field(default_factory=Model)
    prompt: Prompt = field(default_factory=Prompt)
    lora: Lora = field(default_factory=Lora)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    english: English = field(default_factory=English)
    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    preference: Preference = field(default_factory=Preference)
    plan: Plan = field(default_factory=Plan)

    @property
    def paths(self) -> RunPaths:
        """Every file of this run."""
        return RunPaths(self.run)

    @property
    def has_adapter(self) -> bool:
        """Whether this is a training; else it is the base model, as it is or asked in other words."""
        return self.iteration != "base" and self.plan.trained

    @property
    def name(self) -> str:
        """What names this model's files: iteration and training seed; the iteration alone where nothing is trained."""
        return f"{self.trained_as}_seed{self.seed}" if self.has_adapter else self.iteration


SECTIONS = tuple(f.name for f in fields(Config) if f.default_factory is not MISSING)
#: The sections that each stage sees.
STAGES = {
    "sampling": ("corpus", "sampling"),
    "preprocessing": ("model", "prompt"),
    "training": ("model", "prompt", "lora", "training"),
    "evaluation": ("model", "prompt", "evaluation", "english", "benchmarks"),
    "report": ("corpus", "sampling", "model", "prompt", "lora", "training", "evaluation", "english", "benchmarks"),
    "preference": ("model", "prompt", "training", "evaluation", "english", "benchmarks", "preference"),
}
#: The counts of rows that `scale` multiplies.
SCALED = {
    "sampling": ("rows", "rows_per_cluster", "validation_rows"),
    "evaluation": ("test_rows",),
    "english": ("rows",),
}
SCHEDULES = ("linear", "cosine", "cosine_with_restarts")
BACKENDS = ("auto", "unsloth", "peft")
DTYPES = ("auto", "fastest", "float32", "bfloat16")
METHODS = ("random", "per_subset", "stratified")
#: Those whose files come from public repositories (lib/evaluation/tables/benchmarks.toml).
BENCHMARKS = ("lindsea", "copal_id", "xcopa_id", "nusax")
#: What goes beyond the paper: each a folder of variants in notebooks/parameters/studies. Those of `VARYING` change one
#: thing in row 5; `recipe` has the trainings that the study recommends, `tries` those that it was chosen from, and
#: `base` the base model, asked in other words.
VARYING = ("loraplus", "sampling", "bos")
STUDIES = (*VARYING, "recipe", "tries", "base")


#: The most bytes of a run's name. File systems take 255, and some names begin with a run's.
LONGEST_RUN = 100
#: What torch and NumPy both take as a seed.
LARGEST_SEED = 2**32 - 1
#: How many tokens an answer to one of this project's own prompts may have. In SmolLM2's vocabulary they take 2.6 tokens
#: a word, so that the 48 of a scored completion are some 18 words: too few for a list of steps, or for a pantun after a
#: greeting.
OWN_TOKENS = 96


class ConfigError(ValueError):
    """A setting that cannot be used; the message says which, and what can be used."""


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known word is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def run_name(text: str) -> str:
    """The name of a run, as it was given.

    Raises:
        ConfigError: if it cannot name a folder, or if that folder is not for a run.
    """
    if not text.replace("-", "").replace("_", "").replace(".", "").isalnum() or text[0] in "-.":
        raise ConfigError(
            f"RUN={text!r} cannot name a folder of results: use letters, digits, '-', '_' and '.', and begin with a "
            "letter, a digit or '_'"
        )
    if len(text.encode()) > LONGEST_RUN:
        raise ConfigError(f"RUN={text!r} is too long to name a folder of results: use at most {LONGEST_RUN} letters")
    # Some file systems do not tell capitals from small letters.
    if text.casefold() in SHARED:
        raise ConfigError(
            f"RUN={text!r} cannot name a folder of results, since {', '.join(SHARED)} are used by the project itself: "
            "choose another name"
        )
    return text


def check(config: Config) -> None:
    def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
        if value not in known:
            raise ConfigError(f"{name} = {value!r} is unknown{nearest(value, known)}; choose from: {', '.join(known)}")

    one_of("sampling.method", config.sampling.method, METHODS)
    one_of("training.schedule", config.training.schedule, SCHEDULES)
    one_of("training.backend", config.training.backend, BACKENDS)
    one_of("training.dtype", config.training.dtype, DTYPES)
    if config.sampling.method == "stratified" and not 0 < config.sampling.share <= 1:
        raise ConfigError(f"sampling.share = {config.sampling.share} must be above 0 and at most 1")
    held_out = {
        "corpus.test_share": config.corpus.test_share,
        "corpus.validation_share": config.corpus.validation_share,
        "preference.held_out_share": config.preference.held_out_share,
    }
    for name, share in held_out.items():
        if not 0 < share < 1:
            raise ConfigError(f"{name} = {share} must be above 0 and below 1")
    warmup = {
        "training.warmup_share": config.training.warmup_share,
        "preference.warmup_share": config.preference.warmup_share,
    }
    for name, share in warmup.items():
        if not 0 <= share < 1:
            raise ConfigError(f"{name} = {share} must be at least 0 and below 1")
    if config.corpus.test_share + config.corpus.validation_share >= 1:
        raise ConfigError(
            f"corpus.test_share = {config.corpus.test_share} and corpus.validation_share = "
            f"{config.corpus.validation_share} leave no training rows: make them smaller"
        )
    if config.evaluation.f1_tokens > config.evaluation.max_new_tokens:
        raise ConfigError(
            f"evaluation.f1_tokens = {config.evaluation.f1_tokens} is more than "
            f"evaluation.max_new_tokens = {config.evaluation.max_new_tokens}: make it smaller"
        )
    prompt, evaluation = config.prompt, config.evaluation
    if prompt.max_train_tokens <= prompt.min_answer_tokens:
        raise ConfigError(
            f"prompt.max_train_tokens = {prompt.max_train_tokens} leaves no room for a prompt beside "
            f"prompt.min_answer_tokens = {prompt.min_answer_tokens}: make it larger"
        )
    longest = max(evaluation.max_new_tokens, OWN_TOKENS)
    if prompt.max_evaluation_tokens <= longest:
        raise ConfigError(
            f"prompt.max_evaluation_tokens = {prompt.max_evaluation_tokens} leaves no room for a prompt beside an "
            f"answer of {longest} tokens (evaluation.max_new_tokens, and {OWN_TOKENS} on this project's own prompts): "
            "make it larger"
        )
    if evaluation.temperature < 0:
        raise ConfigError(
            f"evaluation.temperature = {evaluation.temperature} must be above 0, or 0.0 for the base model's own"
        )
    if not 0 <= evaluation.top_p <= 1:
        raise ConfigError(
            f"evaluation.top_p = {evaluation.top_p} must be above 0 and at most 1, or 0.0 for the base model's own"
        )
    if evaluation.top_k < -1:
        raise ConfigError(
            f"evaluation.top_k = {evaluation.top_k} must be above 0, or 0 for no limit, or -1 for the base model's own"
        )
    if not evaluation.do_sample and evaluation.decoding_runs > 1:
        raise ConfigError(
            f"evaluation.do_sample = false makes all evaluation.decoding_runs = {evaluation.decoding_runs} the same: "
            "set decoding_runs = 1"
        )
    seeds = {
        "seed": config.seed,
        "corpus.split_seed": config.corpus.split_seed,
        "evaluation.decoding_seed": evaluation.decoding_seed,
    }
    for name, seed in seeds.items():
        if not 0 <= seed <= LARGEST_SEED:
            raise ConfigError(f"{name} = {seed} must be a whole number from 0 to {LARGEST_SEED:,}")
    positive = {
        "scale": config.scale,
        "prompt.bos_tokens": config.prompt.bos_tokens,
        "prompt.min_answer_tokens": config.prompt.min_answer_tokens,
        "lora.lora_rank": config.lora.lora_rank,
        "lora.lora_alpha": config.lora.lora_alpha,
        "lora.loraplus_lr_ratio": config.lora.loraplus_lr_ratio,
        "training.learning_rate": config.training.learning_rate,
        "training.epochs": config.training.epochs,
        "training.batch_size": config.training.batch_size,
        "training.checkpoints": config.training.checkpoints,
        "evaluation.batch_rows": evaluation.batch_rows,
        "evaluation.decoding_runs": config.evaluation.decoding_runs,
        "evaluation.max_new_tokens": config.evaluation.max_new_tokens,
        "preference.beta": config.preference.beta,
        "preference.learning_rate": config.preference.learning_rate,
        "preference.epochs": config.preference.epochs,
        "preference.batch_size": config.preference.batch_size,
        "preference.least_votes": config.preference.least_votes,
    }
    for name, value in positive.items():
        if not value > 0:
            raise ConfigError(f"{name} = {value} must be above 0")
