import pytest
import torch
from transformers import DataCollatorWithFlattening, MistralConfig, MistralForCausalLM

from lib import attention, generation


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


def test_packed_examples_have_the_logits_that_each_has_alone(model):
    examples = some_examples()
    packed = DataCollatorWithFlattening()([{"input_ids": example} for example in examples])
    together = model(input_ids=packed["input_ids"], position_ids=packed["position_ids"]).logits[0]
    alone = torch.cat([as_sdpa(model, lambda e=e: model(input_ids=torch.tensor([e])).logits[0]) for e in examples])
    torch.testing.assert_close(together, alone)


def test_packed_examples_have_the_gradients_that_they_have_alone(model):
    model.double()
    examples = some_examples()
    packed = DataCollatorWithFlattening()([{"input_ids": example} for example in examples])
    model(input_ids=packed["input_ids"], position_ids=packed["position_ids"]).logits.square().sum().backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for example in examples:
        as_sdpa(model, lambda e=example: model(input_ids=torch.tensor([e])).logits.square().sum().backward())
    for grad, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad)


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
