import re
from dataclasses import replace

import pytest
import small_gguf
import torch
from stand_in_hub import Hub, serving

from lib import hardware
from lib.evaluation import benchmarks
from lib.model import loading, packaged
from lib.parameters import load_config, load_configs
from lib.running import advice, memory, probe, workload
from lib.running.advice import AdviceError
from lib.running.memory import Room, read_shape
from lib.running.probe import Speeds
from lib.running.workload import CENDOL, Lengths
from lib.training import backend
from lib.training.backend import PART_TOKENS

SHAPE = read_shape(
    {
        "vocab_size": 50_000,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 20,
        "num_attention_heads": 8,
        "tie_word_embeddings": True,
    }
)
LENGTHS = Lengths(example=50.0, prompt=30.0, longest_example=384, longest_prompt=300, measured=True)
SPEEDS = Speeds(
    start=10,
    load=1,
    grouping=1e-3,
    encoding=1e-3,
    embedding=1e-3,
    scoring=1e-3,
    training=1e-3,
    reading=1e-2,
    writing=1e-3,
    benchmarking=1e-4,
)


def main_memory(gb: float) -> Room:
    return Room("main memory", int(gb * 1e9), int(gb * 1e9), gpu=False)


@pytest.fixture
def quick(monkeypatch):
    """The probe knows its answer, and this machine has no GPU and 16 GB."""
    monkeypatch.setattr(probe, "measure", lambda config, rows: SPEEDS)
    monkeypatch.setattr(memory, "room", lambda: main_memory(16))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def told(monkeypatch, capsys):
    """`python -m lib.running.advice` with these arguments: what it prints, and what it ends with."""

    def call(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["advice", *arguments])
        try:
            advice.main()
        except SystemExit as ended:
            return capsys.readouterr().out, str(ended.code)
        return capsys.readouterr().out, ""

    return call


# --- The table -------------------------------------------------------------------------------------------------------


def test_the_demo_is_told_with_every_figure_and_how_it_is_known(quick, told):
    said, error = told("--profile", "demo")
    assert error == ""
    for words in (
        r"download +nothing +all of it is on this machine",
        r"corpus +27,\d\d\d rows of its subsets +counted",
        r"training +1 of 250 examples at most: 160 steps, [\d,]+ tokens +measured on rows of the corpus",
        r"evaluation +2 models: 5,710 completions, at most 277,440 new tokens +from the settings",
        r"memory +[\d.]+ (GB|MB) of 16.0 GB \(main memory\) +computed, for the ",
        r"disk +[\d.]+ (GB|MB) of [\d.]+ GB free +computed",
        r"time +about [\d.]+ (s|min|h) +measured on this machine",
    ):
        assert re.search(words, said), f"{words} in\n{said}"


def test_the_terms_of_memory_and_of_time_add_up(quick, told):
    said, _ = told("--profile", "demo")
    amounts = [float(n) * {"GB": 1000, "MB": 1}[unit] for n, unit in re.findall(r"^ +([\d.]+) ([GM]B)  \w", said, re.M)]
    whole = re.search(r"memory +([\d.]+) ([GM]B)", said)
    assert sum(amounts) == pytest.approx(float(whole[1]) * {"GB": 1000, "MB": 1}[whole[2]], rel=0.1)
    length, rounded = {"s": 1, "min": 60, "h": 3600}, {"s": 0.5, "min": 30, "h": 180}
    parts = re.findall(r"^ +([\d.]+) (s|min|h)  ", said, re.M)
    assert len(parts) == 5
    whole = re.search(r"about ([\d.]+) (s|min|h)", said).groups()
    slack = sum(rounded[unit] for _, unit in [whole, *parts])
    taken = sum(float(n) * length[unit] for n, unit in parts)
    assert taken == pytest.approx(float(whole[0]) * length[whole[1]], abs=slack)


def test_a_wrong_variable_is_one_sentence(told):
    assert told("--profile", "dmo")[1].startswith("error: no profile 'dmo'; did you mean 'demo'?")
    assert told("--profile", "demo", "--base-model", "/no/such/folder")[1].startswith(
        "error: BASE_MODEL=/no/such/folder"
    )


def test_a_run_that_fits_only_when_others_end_says_so():
    room = Room("main memory", 16 * 10**9, 10**9, gpu=False)
    terms = {"training": {"base model": 4e9}}
    assert "only 1.0 GB is free now" in advice.table(advice.memory_lines(terms, room))
    assert "is free now" not in advice.table(advice.memory_lines(terms, main_memory(16)))


def test_times_that_were_measured_beside_other_programs_are_told_as_too_long():
    assert advice.others(2.0, 2) == ""
    assert advice.others(9.0, 2) == ("other programs are busy here (load 9.0 on 2 cores): the times below are too long")


def test_twice_the_work_takes_twice_its_time():
    configs = load_configs(profile="paper")
    work = workload.count(configs, CENDOL, LENGTHS)
    before = advice.seconds(configs[-1], work, SPEEDS)
    once = work.trained_tokens + probe.VALIDATION * work.validated_tokens
    assert before["training"] == pytest.approx(10 + 1 + once * SPEEDS.training)
    slower = replace(SPEEDS, training=2 * SPEEDS.training, writing=2 * SPEEDS.writing)
    after = advice.seconds(configs[-1], work, slower)
    assert after["training"] - before["training"] == pytest.approx(once * SPEEDS.training)
    assert after["evaluation"] - before["evaluation"] == pytest.approx(work.new_tokens * SPEEDS.writing)
    benchmarked = advice.seconds(configs[-1], replace(work, benchmarked_bytes=2_000_000), SPEEDS)
    assert benchmarked["evaluation"] - before["evaluation"] == pytest.approx(2_000_000 * SPEEDS.benchmarking)
    # The final adapter answers thirty prompts, of 96 tokens each.
    assert after["report"] - before["report"] == pytest.approx(30 * 96 * SPEEDS.writing)
    assert before["report"] == pytest.approx(
        10 + 1 + advice.REPORT_SECONDS + 210 * SPEEDS.reading + 30 * 96 * SPEEDS.writing
    )
    assert after["sampling"] == before["sampling"] > 10 + CENDOL["wikipedia_id"] * SPEEDS.grouping


def test_a_guess_by_operations_is_as_long_as_its_operations():
    configs = load_configs(profile="paper")
    work = workload.count(configs, CENDOL, LENGTHS)
    slow, fast = (advice.rough_seconds(configs[-1], work, LENGTHS, SHAPE, speed) for speed in (1e12, 2e12))
    assert slow == {stage: pytest.approx(2 * taken) for stage, taken in fast.items()}
    least = 4 * SHAPE.parameters * work.trained_tokens / 1e12
    assert least < slow["training"] < 10 * least


# --- What is fetched -------------------------------------------------------------------------------------------------


@pytest.fixture
def there(monkeypatch, tmp_path, base_model):
    """A hub with the tiny model and a file of rows, of which nothing is fetched yet."""
    with serving(Hub(), monkeypatch, tmp_path / "cache") as there:
        files = {path.name: path.read_bytes() for path in base_model.iterdir()}
        there.add("model", "someone/tiny", files | {"another.bin": bytes(10**6)})
        there.add("dataset", "someone/cendol", {"rows.jsonl": bytes(3 * 10**6), "README.md": bytes(10**6)})
        there.model_bytes = sum(map(len, files.values()))
        yield there


def of_the_hub(**given):
    return load_configs(run="trial", profile="demo", **given)[-1]


def test_what_is_fetched_is_what_the_hub_says_of_its_files(there):
    config = of_the_hub(base_model="someone/tiny", corpus="someone/cendol")
    assert advice.to_fetch(config) == {"base model": there.model_bytes, "corpus": 3 * 10**6}
    lines = advice.fetch_lines(config, advice.to_fetch(config))
    assert lines[1].comes_to == "corpus: 3 MB"
    assert set(there.sent) <= {""}, "no file has crossed the network"


def test_a_model_that_was_fetched_is_not_fetched_again(there):
    config = of_the_hub(base_model="someone/tiny")
    assert advice.to_fetch(config)["base model"] > 0
    from lib.model import loading

    loading.base_model_folder(config.model)
    assert advice.to_fetch(config) == {"base model": 0}
    assert advice.fetch_lines(config, advice.to_fetch(config))[0].comes_to == "nothing"


def test_a_model_that_pip_brings_is_counted_until_it_is_here(monkeypatch):
    config = of_the_hub(base_model="smollm2")
    assert advice.to_fetch(config) == {"base model": 92_871_040}
    (line,) = advice.fetch_lines(config, advice.to_fetch(config))
    assert (line.comes_to, line.how) == ("base model: 93 MB", "as pinned, of a package of PyPI")
    path = packaged.PACKAGES["smollm2"].path
    path.parent.mkdir(parents=True)
    path.touch()
    assert advice.to_fetch(config) == {}


def test_of_a_model_that_is_not_here_only_its_configuration_is_fetched(there, quick, told, monkeypatch):
    monkeypatch.setattr(probe, "measure", lambda *_: pytest.fail("there is nothing to measure"))
    said, error = told("--profile", "demo", "--base-model", "someone/tiny")
    assert error == ""
    assert re.search(r"download +base model: [\d.]+ MB +file sizes on the hub", said)
    assert "a guess (within a factor of 3): fetch the base model" in said
    assert "lengths assumed" in said
    assert {name for name in there.sent if name} == {"config.json"}


def test_a_hub_that_cannot_be_asked_is_one_sentence(there, quick, told):
    there.repositories.clear()
    assert told("--profile", "demo", "--base-model", "someone/tiny")[1].startswith("error: the model 'someone/tiny'")


def test_what_the_open_corpus_fetches_is_told_as_pinned(there):
    config = of_the_hub(corpus="open")
    (line,) = advice.fetch_lines(config, advice.to_fetch(config))
    assert re.fullmatch(r"sources of the corpus: \d\d MB", line.comes_to)
    assert line.how == "as pinned, of public git repositories"
    fetched = of_the_hub(base_model="someone/tiny", corpus="open")
    assert set(advice.to_fetch(fetched)) == {"sources of the corpus", "base model"}


def test_of_benchmarks_the_files_of_public_repositories_are_counted():
    one = {table.name: sum(pin.bytes for pin in table.files) for table in benchmarks.table()}["xcopa_id"]
    assert advice.to_fetch(load_config(profile="demo", benchmarks="xcopa_id belebele_ind_Latn")) == {"benchmarks": one}


def test_a_demo_asks_no_hub(there):
    assert advice.to_fetch(load_config(profile="demo")) == {}
    assert there.requests == []


def test_what_a_gguf_file_takes_when_it_is_unpacked_is_counted_until_it_is(
    tiny_model, tokenizer, tmp_path, monkeypatch, quick, told
):
    file = small_gguf.write(tmp_path / "tiny.gguf", tiny_model, tokenizer, "llama-bpe")
    needed, given = [], ("--profile", "demo", "--base-model", str(file))
    monkeypatch.setattr(advice, "refuse_disk", lambda needs, free: needed.append(needs["the unpacked base model"]))
    assert [told(*given)[1], told(*given)[1]] == ["", ""]
    assert needed == [4 * tiny_model.num_parameters(), 0]


# --- What the machine has ---------------------------------------------------------------------------------------------

A_GPU = Room("NVIDIA T4", 16 * 10**9, 16 * 10**9, gpu=True, fused=False)


def machine(monkeypatch, room: Room, numbers: torch.dtype, **training: str) -> str:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: room.gpu)
    monkeypatch.setattr(loading, "dtype", lambda: numbers)
    monkeypatch.setattr(backend, "bfloat16_speedup", lambda: 2.04)
    config = load_config(profile="demo")
    return advice.table(
        advice.machine_lines(replace(config, training=replace(config.training, **training)), room)
    ).replace("  ", "")


def test_who_trains_and_in_which_numbers_is_told_with_the_reason(monkeypatch):
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    said = machine(monkeypatch, main_memory(16), torch.float32, dtype="auto")
    assert "16.0 GB in main memory" in said
    assert "PEFT trains" in said and "unsloth needs a GPU" in said
    assert "float32 while training" in said and "bfloat16 is 2.0 times as fast on this CPU; training.dtype" in said
    said = machine(monkeypatch, A_GPU, torch.float16)
    assert "PEFT trains" in said and "unsloth is not installed" in said
    assert "float16 while training" in said and "lacks bfloat16" in said
    assert "with a table of scores" in said and "older than Ampere" in said
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: name)
    said = machine(monkeypatch, replace(A_GPU, fused=True), torch.bfloat16)
    assert "unsloth trains" in said and "there is a GPU" in said and "this GPU has bfloat16" in said
    said = machine(monkeypatch, A_GPU, torch.bfloat16, backend="peft", dtype="float32")
    assert said.count("says so") == 2


def test_a_gpu_that_pytorch_cannot_use_is_told_before_all_else(quick, told, monkeypatch):
    monkeypatch.setattr(hardware, "_gpu_of_the_driver", lambda: "Tesla T4, driver 470.82")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    said, error = told("--profile", "demo")
    assert said == "" and error.startswith("error: nvidia-smi lists a GPU (Tesla T4, driver 470.82), and PyTorch")


# --- What does not fit -----------------------------------------------------------------------------------------------


def cure(error: pytest.ExceptionInfo) -> tuple[str, int, str]:
    return re.search(r"Set (\w+) = (\d+) in \[(\w+)\] of notebooks/parameters/laptop.toml", str(error.value)).groups()


@pytest.mark.parametrize(
    ("phase", "changed", "room"),
    [
        ("training", {"batch_size": 2048}, Room("a GPU", 16 * 10**9, 16 * 10**9, gpu=True)),
        ("evaluation", {"batch_rows": 512}, main_memory(16)),
    ],
)
def test_a_phase_that_does_not_fit_is_refused_with_a_setting_that_fits(phase, changed, room):
    config = load_config(profile="laptop")
    large = replace(config, **{phase: replace(getattr(config, phase), **changed)})
    advice.refuse_memory(SHAPE, config, LENGTHS, room)
    with pytest.raises(AdviceError, match=f"the {phase} of row 5 needs .* GB, and {room.name} has 16.0 GB") as error:
        advice.refuse_memory(SHAPE, large, LENGTHS, room)
    key, value, section = cure(error)
    assert (key, section) == (next(iter(changed)), phase)
    smaller = replace(large, **{phase: replace(getattr(config, phase), **{key: int(value)})})
    advice.refuse_memory(SHAPE, smaller, LENGTHS, room)


def test_without_a_gpu_a_training_takes_the_memory_of_the_part_that_is_read_at_once_whatever_the_batch():
    config = load_config(profile="laptop")
    large, one = (replace(config, training=replace(config.training, batch_size=size)) for size in (4096, 1))
    room = main_memory(16)
    assert memory.training(SHAPE, large, 100, room) == memory.training(SHAPE, one, PART_TOKENS, room)


def test_where_not_one_example_fits_a_smaller_model_is_named():
    with pytest.raises(AdviceError, match=r"Name a smaller model with BASE_MODEL, or use PROFILE=laptop$"):
        advice.refuse_memory(SHAPE, load_config(profile="demo"), LENGTHS, main_memory(1))


@pytest.mark.parametrize("profile", ["demo", "smollm2"])
def test_a_vocabulary_too_large_to_read_answers_with_is_refused_whether_or_not_english_is_measured(profile):
    wide = replace(SHAPE, vocabulary=500_000, hidden=64, queries=64, keys=64, inner=64)
    config = load_config(profile=profile)
    small = replace(
        config, evaluation=replace(config.evaluation, batch_rows=1), training=replace(config.training, batch_size=1)
    )
    with pytest.raises(
        AdviceError, match=r"the reading of the answers of row 5 .*Name a smaller model with BASE_MODEL, "
    ):
        advice.refuse_memory(wide, small, LENGTHS, main_memory(16))


def test_a_model_in_4_bits_is_refused_where_there_is_no_gpu():
    in_4_bits = replace(SHAPE, bits=4)
    with pytest.raises(AdviceError, match=r"a model in 4 bits: it needs a GPU.*PROFILE=laptop"):
        advice.refuse_bits(in_4_bits, load_config(profile="paper"), main_memory(500))
    advice.refuse_bits(in_4_bits, load_config(profile="paper"), Room("a GPU", 1, 1, gpu=True))
    advice.refuse_bits(SHAPE, load_config(profile="paper"), main_memory(500))


def test_a_run_that_does_not_fit_ends_with_1_before_anything_is_measured(quick, told, monkeypatch):
    monkeypatch.setattr(memory, "room", lambda: main_memory(0.9))
    monkeypatch.setattr(probe, "measure", lambda *_: pytest.fail("measured"))
    said, error = told("--profile", "demo")
    assert said == ""
    assert error.startswith("error: the ") and "needs" in error


def test_a_disk_that_would_be_full_is_refused_with_what_takes_the_most(quick, told):
    needs = {"downloads": 2e9, "the rows of the corpus": 8e9}
    advice.refuse_disk(needs, 11 * 10**9)
    with pytest.raises(AdviceError, match=r"needs 10.0 GB of disk, most of it for the rows of the corpus, and 9.0 GB"):
        advice.refuse_disk(needs, 9 * 10**9)


def test_a_disk_holds_what_is_fetched_and_what_is_made():
    configs = load_configs(profile="laptop", seeds="0 1")
    work = workload.count(configs, CENDOL, LENGTHS)
    needs = advice.disk(configs[-1], work, SHAPE, {"base model": 10**9, "corpus": 2 * 10**9}, packed=True)
    assert needs["downloads"] == 3e9
    assert needs["the unpacked base model"] == 4 * SHAPE.parameters
    assert needs["the rows of the corpus"] == 8e9
    # Parameters, and in two checkpoints their states too, of two recipes by two seeds.
    assert needs["checkpoints and adapters"] == 4 * 7 * 4 * SHAPE.adapter(32)
    answers = work.completions + work.own + work.starters
    assert needs["completions"] == advice.COMPLETION_BYTES * answers and needs["embeddings"] > 0
    assert advice.disk(configs[-1], work, SHAPE, {}, packed=False)["the unpacked base model"] == 0
