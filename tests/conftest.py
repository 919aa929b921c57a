import signal

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lib import paths
from lib.config import Prompt
from lib.training.pretraining import train_tokenizer

# Tests that are started in the background find SIGINT ignored, and what they start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow or busy machine is no fault of the code, and a fault found must be found again by whoever looks for it.
hypothesis.settings.register_profile(
    "klepon", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("klepon")

# More than twenty, so that the words of the chat template get merges of their own too.
SENTENCES = """\
Ibu kota Indonesia adalah Jakarta.
Ibu kota Jepang adalah Tokyo.
Apa ibu kota Jepang?
Apa ibu kota Indonesia?
Siapa kamu, dan siapa yang membuatmu?
Saya adalah asisten yang siap membantu Anda kapan saja.
Maaf, saya tidak bisa membantu membuat sesuatu yang berbahaya.
Tulislah sebuah pantun tentang laut.
Hujan turun di atas atap seng, malam berlagu pelan.
Rindu ini laut, dan kau perahu yang tak pulang.
Panaskan wajan, tumis bawang putih sampai harum.
Lalu masukkan nasi dan kecap, aduk sampai rata.
Bagaimana cara memasak nasi goreng?
Jelaskan tentang candi Borobudur.
Borobudur adalah candi Buddha di Magelang, Jawa Tengah.
Sungai Kapuas adalah sungai terpanjang di Indonesia.
Gunung Merapi meletus lagi pada tahun 2010.
Kucing itu tidur di jendela sepanjang sore.
Apakah manusia bisa hidup di Mars?
Terima kasih banyak atas bantuannya!
Selamat pagi, dunia.
Nelayan berangkat sebelum fajar menyingsing.""".splitlines()


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path):
    """Artifacts and reports of every test lie in a folder of its own."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def settings():
    return Prompt()


@pytest.fixture(scope="session")
def tokenizer(settings):
    return train_tokenizer(SENTENCES, settings)


@pytest.fixture(scope="session")
def chatml():
    """A tokenizer with the special tokens and a chat template of the kind that small public models have.

    A turn begins with the token that also begins a text; a system turn stands where none is given; the end of a turn is
    the padding too, and no token is named for padding alone.
    """
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    made.chat_template = (
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}"
        "{{ '<|im_start|>system\nAnda asisten yang ramah.<|im_end|>\n' }}"
        "{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return made


@pytest.fixture
def tiny_config(tokenizer):
    """Of a Llama of two layers with grouped-query attention."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        # Large enough that the next token is far from evenly likely.
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@pytest.fixture
def tiny_model(tiny_config):
    """A random one; the same weights for every test."""
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config).eval()


@pytest.fixture
def base_model(tiny_model, tokenizer, tmp_path_factory):
    """The folder of a base model."""
    folder = tmp_path_factory.mktemp("base_model")
    tiny_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
