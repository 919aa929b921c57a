"""Where files are: what a run computes is under artifacts/<run>/, what it shows under reports/<run>/."""

import glob
import json
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = ROOT / "notebooks" / "parameters"
PUBLISHED = ROOT / "reports" / "published"
DEMO_BASE_MODEL = ROOT / "lib" / "demo" / "base_model"
#: In an adapter's folder: how it was trained.
ADAPTER_RECORD = "klepon.json"
#: Beside the final adapter: what the chat offers to ask it, a kind and a prompt each.
STARTERS = "starters.json"
#: Beside it too: what it and its base model say of a few answers, by which a server is known to have them.
REFERENCES = "references.json"
#: In the folder of a base model that was unpacked from a GGUF file: which file that was.
GGUF_RECORD = "gguf.json"
#: What artifacts/ and reports/ hold beside the folders of runs.
SHARED = ("base_models", "corpora", "embeddings", "hub.json", "sources", "bench", "example", "published")


def located(name: str) -> str:
    """The full path of what a name stands for: a file, a folder or a glob that matches something; else the name."""
    # A notebook's working directory is not the one that `make` was called in.
    for path in (str(ROOT / name), str(expanded(name))):
        # A name may be too long for a file.
        with suppress(OSError):
            if Path(path).exists() or (glob.has_magic(path) and next(glob.iglob(path, recursive=True), None)):  # noqa: PTH207
                return path
    return name


def expanded(name: str) -> Path:
    """A path whose `~` stands for a home; as it is where nobody has that name."""
    return Path(os.path.expanduser(name))  # noqa: PTH111


def base_models() -> Path:
    """Base models that were unpacked from a file, for all runs: a folder each."""
    return ROOT / "artifacts" / "base_models"


def is_profile(name: str) -> bool:
    """Whether a run of this name is that of a profile."""
    return (PARAMETERS / f"{name}.toml").is_file()


def command_for(folder: Path) -> str:
    """The command that makes the run in whose artifacts a folder is; `make report` for a folder elsewhere."""
    home = (ROOT / "artifacts").resolve()
    inside = folder.resolve().relative_to(home).parts if folder.resolve().is_relative_to(home) else ()
    return RunPaths(inside[0]).command if inside else "make report"


@dataclass(frozen=True)
class RunPaths:
    """Every file of one run. A `name` says which training: iteration and seed, or `base` for none."""

    run: str

    @property
    def command(self) -> str:
        """The command that makes this run again: `make report` with the variables that it was last given."""
        asked = {} if self.run == "demo" else {"PROFILE" if is_profile(self.run) else "RUN": self.run}
        if self.asked.is_file():
            asked = json.loads(self.asked.read_text(encoding="utf-8"))
        return shlex.join(["make", "report", *(f"{name}={value}" for name, value in asked.items())])

    def preference_command(self, votes: str) -> str:
        """The command that trains this run's adapter on votes again: those of a file, or where empty, of its chat."""
        return shlex.join(["make", "preference", f"RUN={self.run}", *([f"VOTES={votes}"] if votes else [])])

    @property
    def asked(self) -> Path:
        """The variables that `make report` was last given for this run."""
        return self.artifacts / "asked.json"

    def settings(self, stage: str) -> Path:
        """What a stage can see of the settings, as make was last asked; and hashes of the files that it reads."""
        return self.artifacts / "settings" / f"{stage}.json"

    @property
    def lock(self) -> Path:
        """Held by whoever makes or removes this run."""
        return self.artifacts / "lock"

    @property
    def artifacts(self) -> Path:
        """What the run computes."""
        return ROOT / "artifacts" / self.run

    @property
    def reports(self) -> Path:
        """What the run shows: executed notebooks, figures/, report.html, results.csv, summary.csv, manifest.json."""
        return ROOT / "reports" / self.run

    @property
    def figures(self) -> Path:
        """Every figure, as PNG and SVG."""
        return self.reports / "figures"

    @property
    def rows(self) -> Path:
        """The rows that are used, in Cendol's schema."""
        return self.artifacts / "corpus" / "rows.parquet"

    @property
    def corpus_summary(self) -> Path:
        """What was read, kept, left out and set aside, and the corpus's fingerprint."""
        return self.artifacts / "corpus" / "summary.json"

    @property
    def split(self) -> Path:
        """For each of those rows: its group and its side."""
        return self.artifacts / "corpus" / "split.parquet"

    @property
    def alike(self) -> Path:
        """Test texts to which a text on the other side of the split is alike, as counted by another measure."""
        return self.artifacts / "corpus" / "alike.parquet"

    @property
    def embeddings(self) -> Path:
        """The cache of embedded texts: the same for all runs, since a text is the same."""
        return ROOT / "artifacts" / "embeddings"

    def sample(self, iteration: str) -> Path:
        """The drawn rows: position in `rows`, part (train or validation) and cluster."""
        return self.artifacts / "samples" / f"{iteration}.parquet"

    def examples(self, iteration: str, part: str) -> Path:
        """Token ids and loss masks of one part of a sample."""
        return self.artifacts / "examples" / iteration / f"{part}.parquet"

    def training(self, name: str) -> Path:
        """Checkpoints of one training, and its log."""
        return self.artifacts / "trainings" / name

    def training_log(self, name: str) -> Path:
        """Losses, rates and speed by step."""
        return self.training(name) / "log.csv"

    def adapter(self, name: str) -> Path:
        """A PEFT folder with tokenizer, chat template and its hash."""
        return self.artifacts / "adapters" / name

    @property
    def final_adapter(self) -> Path:
        """The adapter that the chat loads."""
        return self.artifacts / "final_adapter"

    @property
    def chat(self) -> Path:
        """The data of the run's chat, unless KLEPON_CHAT names another folder: accounts, conversations, secret key."""
        return self.artifacts / "chat"

    @property
    def votes(self) -> Path:
        """The votes that the final adapter was last trained further on, a line each, as the chat exports them."""
        return self.artifacts / "preference" / "votes.jsonl"

    @property
    def preference_settings(self) -> Path:
        """Everything else that that training depends on."""
        return self.artifacts / "preference" / "settings.json"

    @property
    def voted(self) -> Path:
        """What became of each vote: its part, its group, and how much likelier its chosen answer is."""
        return self.artifacts / "preference" / "votes.parquet"

    @property
    def merged(self) -> Path:
        """The final adapter merged into its base model: a model's folder, in 16 bits."""
        return self.artifacts / "merged"

    @property
    def merge_record(self) -> Path:
        """How close that model is to the adapter, as measured, and the fingerprints of both."""
        return self.artifacts / "merge.json"

    @property
    def gguf(self) -> Path:
        """The merged model for llama.cpp and Ollama: model.gguf and Modelfile."""
        return self.artifacts / "gguf"

    @property
    def gguf_record(self) -> Path:
        """How close that file is to the adapter, as measured."""
        return self.artifacts / "gguf.json"

    def completions(self, name: str, protocol: str = "clean") -> Path:
        """Completions of one model on the test rows of a protocol, or on our own prompts, a line each."""
        return self.artifacts / "completions" / f"{name}_{protocol}.jsonl"

    def scores(self, name: str) -> Path:
        """Their scores in both protocols, tidy."""
        return self.artifacts / "scores" / f"{name}.csv"

    def language(self, name: str) -> Path:
        """What one model does on English, and the language of its completions, tidy."""
        return self.artifacts / "scores" / f"{name}_language.csv"

    def pairs(self, name: str, protocol: str = "clean") -> Path:
        """The scores of each completion against its reference, and the counts behind corpus scores."""
        return self.artifacts / "scores" / f"{name}_{protocol}_pairs.parquet"

    @property
    def english_rows(self) -> Path:
        """The rows that English is measured on, where they come from a separate corpus."""
        return self.artifacts / "english" / "rows.parquet"

    def likelihood(self, name: str, protocol: str = "clean") -> Path:
        """How well one model predicts the reference answers of the test rows, a line a row."""
        return self.artifacts / "likelihood" / f"{name}_{protocol}.parquet"

    def benchmarks(self, name: str) -> Path:
        """What one model made of every item of the benchmarks, a line an item."""
        return self.artifacts / "benchmarks" / f"{name}.parquet"

    def stage_record(self, notebook: str) -> Path:
        """Seconds and peak memory of one executed notebook."""
        return self.artifacts / "stages" / f"{notebook}.json"

    def failure(self, notebook: str) -> Path:
        """Why a notebook last failed; absent where it did not."""
        return self.artifacts / "failures" / f"{notebook}.json"

    def cluster_log(self, notebook: str) -> Path:
        """A stage's last output on a Ray cluster; the process that runs it holds a lock on this file."""
        return self.artifacts / "cluster" / f"{notebook}.log"

    @property
    def trackers(self) -> Path:
        """What trackers of trainings write; see lib.training.tracking."""
        return self.artifacts / "trackers"

    @property
    def results(self) -> Path:
        """All scores of the run, tidy."""
        return self.reports / "results.csv"

    @property
    def summary(self) -> Path:
        """The means of those scores over the decoding runs, with their intervals over test groups."""
        return self.reports / "summary.csv"

    @property
    def manifest(self) -> Path:
        """What made this run: commit, versions, device, fingerprints, seconds and memory of each stage."""
        return self.reports / "manifest.json"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.reports / "report.html"
