"""The arithmetic of memory, against what torch really keeps, and against the paper's own counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lib.config import Config, English, Lora
from lib.model import generation, loading
from lib.model.attention import PackedCollator, register
from lib.parameters import load_config
from lib.running import memory
from lib.running.memory import Room, read_shape

LLAMA_1B = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
IN_4_BITS = read_shape(LLAMA_1B | {"quantization_config": {"load_in_4bit": True}})
# What a T4 shows of its 16 GB.
T4 = Room("Tesla T4", 15_828_320_256, 15_700_000_000, gpu=True, fused=False)
LAPTOP = Room("main memory", 8 * 2**30, 6 * 2**30, gpu=False)
SMALL = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}


def test_the_shape_has_the_parameters_of_the_model_and_of_the_papers_adapter():
    shape = read_shape(LLAMA_1B)
    assert shape.parameters == 1_235_814_400
    assert shape.adapter(32) == 22_544_384
    untied = read_shape(LLAMA_1B | {"tie_word_embeddings": False})
    assert untied.parameters - shape.parameters == 128_256 * 2048


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"num_key_value_heads": 4},
        # Wider heads than the model is wide.
        {"head_dim": 48},
    ],
)
def test_the_shape_counts_as_the_model_does(changed):
    config = SMALL | {"num_hidden_layers": 3} | changed
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config))
    assert read_shape(config).parameters == sum(parameter.numel() for parameter in model.parameters())
    attached = loading.attach_lora(model, Lora(lora_rank=5))
    assert read_shape(config).adapter(5) == loading.trainable_parameters(attached).loc["all", "trained"]


def test_a_config_without_a_head_width_divides_the_model_among_its_heads():
    config = {key: value for key, value in LLAMA_1B.items() if key != "head_dim"}
    assert read_shape(config) == read_shape(LLAMA_1B)


def test_weights_in_4_bits_take_little_more_than_half_a_byte():
    on_gpu = memory.weights(read_shape(LLAMA_1B), T4)
    assert on_gpu == 2 * 1_235_814_400
    # The embeddings stay in 16 bits.
    in_4_bits = memory.weights(IN_4_BITS, T4)
    assert in_4_bits == pytest.approx(973_078_528 * 4.127 / 8 + 262_735_872 * 2, rel=1e-3)
    assert memory.weights(read_shape(LLAMA_1B), LAPTOP) == 4 * 1_235_814_400


def kept_by_torch(layers: int, tokens: int, examples: int = 4) -> int:
    """The bytes that one forward pass of a training keeps for its way back, without weights."""
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, num_hidden_layers=layers, attn_implementation=register())
    model = loading.attach_lora(LlamaForCausalLM(config), Lora(lora_rank=2))
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            # The tensor itself is held, or its memory would serve another one.
            kept[storage.data_ptr()] = tensor
        return tensor

    # Nothing in common at their beginnings, so that nothing is packed away.
    some = [{"input_ids": [n + 1] * tokens, "labels": [n + 1] * tokens} for n in range(examples)]
    batch = PackedCollator()(some)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model.get_base_model().model(batch["input_ids"], position_ids=batch["position_ids"]).last_hidden_state
    assert hidden.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_activations_on_a_cpu_are_what_torch_keeps():
    config = replace(Config(), lora=Lora(lora_rank=2))
    term = "activations of all layers"

    def estimated(layers: int) -> float:
        shape = read_shape(SMALL | {"num_hidden_layers": layers})
        config_of_4 = replace(config, training=replace(config.training, batch_size=4))
        return memory.training(shape, config_of_4, 50, LAPTOP)[term]

    # Per layer: what stands before and behind the layers falls away.
    real, told = kept_by_torch(5, 50) - kept_by_torch(2, 50), estimated(5) - estimated(2)
    assert real / told == pytest.approx(1, abs=0.15)


def test_keys_and_values_are_what_a_batch_of_completions_holds(tiny_model):
    config = load_config(profile="demo", iteration="base")
    settings = replace(config.evaluation, batch_rows=3, decoding_runs=4, max_new_tokens=6)
    shape = read_shape(tiny_model.config.to_dict())
    batch = generation.Batch(tiny_model)
    decoding = generation.Decoding(max_new_tokens=6, end_ids=())
    runs = [{(row, run): np.zeros(6) for run in range(4)} for row in range(3)]
    batch.add_prompts([[1] * 20] * 3, runs, decoding)
    held = sum(
        layer._all_keys.untyped_storage().nbytes() + layer._all_values.untyped_storage().nbytes()
        for layer in batch._layers
    )
    told = memory.evaluation(shape, replace(config, evaluation=settings), 20, LAPTOP)[
        "keys and values of the sequences"
    ]
    # A prompt's last token is read with the first step.
    assert held / told == pytest.approx(25 / 26, abs=1e-6)


def test_of_prompts_that_are_decoded_greedily_as_many_caches_are_held_as_of_sequences(tiny_model, monkeypatch):
    settings = replace(Config().evaluation, batch_rows=3, decoding_runs=4, max_new_tokens=6)
    held, arrange = [], generation.Batch._arrange

    def watched(self, parts, joining):
        layers = [layer for some, _, _ in parts for layer in some]
        held.append(sum(layer.keys.nbytes + layer.values.nbytes for layer in layers))
        arrange(self, parts, joining)

    monkeypatch.setattr(generation.Batch, "_arrange", watched)
    decoding = generation.Decoding(max_new_tokens=6, end_ids=())
    # As `completions.complete` batches them.
    generation.Batch(tiny_model).add_prompts([[1] * 20] * 12, [{row: np.zeros(6)} for row in range(12)], decoding)
    shape = read_shape(tiny_model.config.to_dict())
    told = memory.evaluation(shape, replace(Config(), evaluation=settings), 20, LAPTOP)
    assert held[0] / told["keys and values of the prompts"] == pytest.approx(19 / 20, abs=1e-6)


def test_row_5_trains_on_a_gpu_with_16_gb_with_its_longest_examples():
    config = load_config(profile="t4")
    terms = memory.training(IN_4_BITS, config, config.prompt.max_train_tokens, T4)
    assert (config.training.batch_size, config.lora.lora_rank) == (8, 32)
    assert memory.needed(terms) < T4.total
    assert memory.needed(terms) / 1e9 == pytest.approx(14.4, abs=0.05), "notebooks/README.md says so"


def evaluated(profile: str, room: Room) -> float:
    """What decoding or reading answers takes at most, by the profile's longest rows."""
    config = load_config(profile=profile)
    longest = config.prompt.max_evaluation_tokens - config.evaluation.max_new_tokens
    return max(
        memory.needed(memory.evaluation(IN_4_BITS, config, longest, room)),
        memory.needed(memory.likelihood(IN_4_BITS, config, config.prompt.max_evaluation_tokens, room)),
    )


def test_row_5_is_evaluated_on_a_gpu_with_16_gb_by_the_profile_for_it_and_not_by_the_papers():
    assert evaluated("t4", T4) < T4.total < evaluated("paper", T4)
    assert evaluated("t4", T4) / 1e9 == pytest.approx(9.7, abs=0.05), "notebooks/README.md says so"
    assert evaluated("paper", T4) / 1e9 == pytest.approx(27.4, abs=0.05), "notebooks/README.md says so"


def test_the_paper_profile_runs_on_a_gpu_with_32_gb():
    config, room = load_config(profile="paper"), Room("a GPU", 32 * 10**9, 32 * 10**9, gpu=True)
    assert memory.needed(memory.training(IN_4_BITS, config, config.prompt.max_train_tokens, room)) < room.total
    assert evaluated("paper", room) < room.total


def test_the_laptop_profile_runs_in_8_gb_of_main_memory():
    shape = read_shape(
        {
            "vocab_size": 49_152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        }
    )
    assert shape.parameters == 134_515_008
    config = load_config(profile="laptop")
    longest = config.prompt.max_evaluation_tokens - config.evaluation.max_new_tokens
    assert memory.needed(memory.training(shape, config, config.prompt.max_train_tokens, LAPTOP)) < LAPTOP.total
    assert memory.needed(memory.evaluation(shape, config, longest, LAPTOP)) < LAPTOP.total


def test_a_gpu_keeps_the_activations_of_one_layer_and_a_cpu_those_of_all():
    config, shape = Config(), read_shape(LLAMA_1B)
    deeper = replace(shape, layers=32)
    gpu = replace(T4, fused=True)
    one, two = (memory.training(s, config, 100, gpu) for s in (shape, deeper))
    again = "activations of one layer, computed again"
    assert one[again] == two[again]
    assert two["inputs of the layers"] == 2 * one["inputs of the layers"]
    one, two = (memory.training(s, config, 100, LAPTOP)["activations of all layers"] for s in (shape, deeper))
    assert 1.9 < two / one < 2


def test_a_cpu_keeps_the_activations_of_no_more_tokens_than_it_reads_at_once():
    shape, term = read_shape(LLAMA_1B), "activations of all layers"

    def kept(batch_size, longest):
        config = replace(Config(), training=replace(Config().training, batch_size=batch_size))
        return memory.training(shape, config, longest, LAPTOP)[term]

    assert kept(2, 512) == kept(8, 512) == kept(8, 1_024) == kept(1, 1_024)
    assert kept(1, 512) == kept(1, 1_024) / 2 and kept(8, 2_048) == 2 * kept(1, 1_024)


def test_every_likelihood_costs_the_logits_of_the_rows_that_are_read_together():
    shape, config = read_shape(LLAMA_1B), Config()
    assert config.english == English(source="")
    # Every logit in 32 bits, and those of answers once more, and as logarithms.
    assert memory.likelihood(shape, config, 1_000, LAPTOP)["logits of the rows"] == 4 * 1_000 * 128_256 * 12
    assert memory.likelihood(shape, config, 8_000, LAPTOP)["logits of the rows"] == 8_000 * 128_256 * 12


def test_prompts_are_read_by_tokens_and_not_all_at_once():
    def reading(batch_rows: int, longest: int) -> list[float]:
        config = replace(Config(), evaluation=replace(Config().evaluation, batch_rows=batch_rows))
        terms = memory.evaluation(read_shape(LLAMA_1B), config, longest, T4)
        return [terms["reading"], terms["attention scores of one layer"]]

    assert reading(64, 500) == reading(16, 500)
    # Four of them together, and one that is too long for company.
    assert reading(64, 500)[1] == 2 * 4 * 32 * 500**2 * 4
    assert reading(64, 3_000)[1] == 2 * 4 * 32 * 3_000**2


@pytest.mark.parametrize(("most", "found"), [(8, 8), (7, 4), (3, 2), (1, 1), (0, 0)])
def test_the_largest_that_fits_is_halved_from_what_is_set(most, found):
    assert memory.largest(8, lambda count: count <= most) == found


def test_room_is_main_memory_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    room = memory.room()
    assert (room.name, room.gpu, room.fused, room.value) == ("main memory", False, True, 4)
    assert 0 < room.free <= room.total


@pytest.mark.parametrize(("capability", "fused"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_room_is_the_gpu_s_and_knows_whether_it_keeps_a_table_of_scores(monkeypatch, capability, fused):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 6))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert memory.room() == Room("a GPU", 6, 5, gpu=True, fused=fused)


def a_system(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("groups", "file", "text", "expected"),
    [
        ("0::/user/session\n", "user/session/memory.max", "5000\n", 5_000),
        # Within a container.
        ("0::/\n", "memory.max", "5000\n", 5_000),
        ("4:memory:/docker/1\n0::/\n", "memory/memory.limit_in_bytes", "5000\n", 5_000),
        ("4:memory:/docker/1\n", "memory/docker/1/memory.limit_in_bytes", "5000\n", 5_000),
        # No limit.
        ("0::/\n", "memory.max", "max\n", None),
        ("4:memory:/\n", "memory/memory.limit_in_bytes", "9223372036854771712\n", None),
    ],
)
def test_a_container_has_the_memory_that_it_is_given(tmp_path, groups, file, text, expected):
    system = a_system(tmp_path, {"proc/self/cgroup": groups, f"sys/fs/cgroup/{file}": text})
    assert memory.limit(system) == (expected or psutil.virtual_memory().total)


def test_without_containers_the_machine_s_memory_is_the_limit(tmp_path):
    assert memory.limit(tmp_path) == psutil.virtual_memory().total


def test_the_system_counts_what_it_killed_as_memory_ran_out_or_does_not_say(tmp_path):
    assert memory.kills(a_system(tmp_path / "linux", {"proc/vmstat": "pgfault 9\noom_kill 3\nx 1\n"})) == 3
    assert memory.kills(a_system(tmp_path / "old", {"proc/vmstat": "pgfault 9\n"})) is None
    assert memory.kills(tmp_path / "other") is None
