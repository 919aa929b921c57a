import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from lib.model import attention, generation
from lib.model.attention import PackedCollator


@pytest.fixture
def windowed_model(tokenizer):
    """A model whose tokens see no further back than five positions."""
    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        sliding_window=5,
        initializer_range=0.3,
    )
    return MistralForCausalLM(config).eval()


@pytest.fixture(params=["tiny_model", "windowed_model"])
def model(request):
    made = request.getfixturevalue(request.param)
    made.set_attn_implementation(attention.register())
    return made


def as_sdpa(model, call):
    model.set_attn_implementation("sdpa")
    result = call()
    model.set_attn_implementation(attention.NAME)
    return result


def some_examples():
    torch.manual_seed(2)
    return [torch.randint(5, 300, (length,)).tolist() for length in (7, 23, 1, 12)]


def test_a_padded_batch_has_the_logits_of_sdpa(model):
    examples = some_examples()
    longest = max(map(len, examples))
    ids = torch.tensor([[0] * (longest - len(e)) + e for e in examples])
    mask = torch.tensor([[0] * (longest - len(e)) + [1] * len(e) for e in examples])

    def logits():
        return model(input_ids=ids, attention_mask=mask).logits[mask.bool()]

    torch.testing.assert_close(logits(), as_sdpa(model, logits))


def as_examples(prompts, answers):
    return [{"input_ids": p + a, "labels": [-100] * len(p) + a} for p, a in zip(prompts, answers, strict=True)]


def unlike():
    return as_examples([[7, 8, 9], [9], [20, 21], [30, 31, 32, 33, 34, 35, 36]], some_examples())


def alike():
    """Prompts that begin alike, one of them with nothing after; and one whose answer goes on alike."""
    system = [11, 12, 13, 14, 15, 16]
    return as_examples(
        [[*system, 40], system, [*system, 41, 42], [*system, 40, 43]], [[40, 5], [40, 6, 7], [8], [9] * 9]
    )


@pytest.mark.parametrize("made", [unlike, alike])
def test_packed_examples_have_the_loss_and_the_gradients_that_they_have_alone(model, made):
    model.double()
    examples, count = made(), sum(label != -100 for example in made() for label in example["labels"])
    loss = model(**PackedCollator()(examples), num_items_in_batch=count).loss
    loss.backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    total = 0.0
    for example in examples:
        batch = {name: torch.tensor([ids]) for name, ids in example.items()}
        alone = as_sdpa(model, lambda batch=batch: model(**batch, num_items_in_batch=count).loss)
        alone.backward()
        total += alone.item()
    assert loss.item() == pytest.approx(total, rel=1e-6)
    for grad, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tokens", [1, 20, 1_000])
@pytest.mark.parametrize("made", [unlike, alike])
def test_parts_of_a_batch_add_up_to_its_loss_and_its_gradients(model, made, tokens):
    model.double()
    batch = PackedCollator()(made())
    loss = model(**batch, num_items_in_batch=10).loss
    loss.backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    several = list(attention.parts(batch, tokens))
    losses = [model(**part, num_items_in_batch=10).loss for part in several]
    sum(losses).backward()
    assert sum(losses).item() == pytest.approx(loss.item(), rel=1e-6)
    for grad, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("made", "tokens", "lengths"),
    [(unlike, 22, [10, 24, 22]), (unlike, 56, [56]), (alike, 13, [13, 9, 17]), (alike, 1, [9, 9, 9, 17])],
)
def test_a_part_holds_as_many_examples_as_there_is_room_for_and_at_least_one(made, tokens, lengths):
    batch = PackedCollator()(made())
    several = list(attention.parts(batch, tokens))
    assert [part["input_ids"].shape[1] for part in several] == lengths
    trained = [label for part in several for label in part["labels"][0].tolist() if label != -100]
    assert trained == [label for label in batch["labels"][0].tolist() if label != -100]


def test_what_all_prompts_begin_with_is_packed_once():
    batch = PackedCollator()(alike())
    ids, labels, positions = (batch[name][0].tolist() for name in ("input_ids", "labels", "position_ids"))
    # The last token of the shortest prompt predicts an answer, so it is each example's own.
    assert ids.count(15) == 1 and ids.count(16) == 4
    assert sum(label != -100 for label in labels) == sum(label != -100 for e in alike() for label in e["labels"])
    assert [n for n, position in enumerate(positions) if n and position <= positions[n - 1]] == [9, 13, 17]
    assert positions[9] == positions[13] == positions[17] == 5


def test_prompts_that_begin_apart_are_packed_whole():
    batch = PackedCollator()(unlike())
    assert batch["input_ids"][0].tolist() == [token for example in unlike() for token in example["input_ids"]]


def test_one_example_is_packed_as_it_is():
    example = alike()[2]
    batch = PackedCollator()([example])
    assert batch["input_ids"].tolist() == [example["input_ids"]]
    assert batch["labels"].tolist() == [example["labels"]]
    assert batch["position_ids"].tolist() == [list(range(len(example["input_ids"])))]


def test_completions_are_those_of_sdpa(model):
    prompts = some_examples()
    decoding = generation.Decoding(12, (10**6,), greedy=True)
    draws = torch.zeros((len(prompts), 2, 12)).numpy()

    def complete():
        return generation.decode(model, prompts, draws, decoding)

    assert complete() == as_sdpa(model, complete)


def test_one_row_that_goes_on_from_a_cache_has_the_logits_of_sdpa(model):
    ids = torch.tensor([some_examples()[1]])

    def logits():
        cache = model(input_ids=ids[:, :9], use_cache=True).past_key_values
        return model(input_ids=ids[:, 9:], past_key_values=cache, use_cache=True).logits

    torch.testing.assert_close(logits(), as_sdpa(model, logits))
