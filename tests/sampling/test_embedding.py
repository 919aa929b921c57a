import numpy as np
import pytest

from lib.sampling import embedding

TEXTS = [
    *"""Ibu kota Indonesia adalah Jakarta.
The capital of Japan is Tokyo.
Hujan turun di atas atap seng, malam berlagu pelan.
ya
Tidak.
42
Saya adalah asisten yang siap membantu Anda kapan saja.
I am an assistant, and I am here to help you.
Borobudur adalah candi Buddha di Magelang, Jawa Tengah, yang dibangun pada abad kesembilan.
Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.
Panaskan wajan, tumis bawang putih sampai harum, lalu masukkan nasi dan kecap.
First, sand the wood lightly; then apply two thin coats of varnish.
Maaf, saya tidak bisa membantu membuat sesuatu yang berbahaya.
Kucing itu tidur di jendela sepanjang sore.
The cat slept on the windowsill all afternoon.
Harga beras naik 12,5 persen sejak bulan lalu.
def luas(r): return 3.14 * r ** 2
Daftar: 1) apel 2) mangga 3) salak 4) durian
Rindu ini laut, dan kau perahu yang tak pulang.
Gunung Merapi meletus lagi pada tahun 2010.
Could you explain gravity to a six-year-old?
Terima kasih banyak atas bantuannya!
Sungai Kapuas adalah sungai terpanjang di Indonesia.
Rp 15.000 / kg
Selamat pagi, dunia.
A hundred years later, nobody remembered the flood.
Suhu air mendidih adalah 100 derajat Celsius pada tekanan satu atmosfer.
こんにちは
Apakah manusia bisa hidup di Mars?""".splitlines(),
    "Nelayan berangkat sebelum fajar menyingsing. " * 60,
]


@pytest.fixture(scope="module")
def model_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture
def asked(monkeypatch):
    """Stand in for the model with vectors that depend on the text alone; list what each call was asked for."""
    calls = []

    def encode(texts):
        calls.append(list(texts))
        vectors = np.array([np.random.default_rng(list(text.encode())).normal(size=384) for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr(embedding, "load_encoder", lambda device, cache, exact: encode)
    return calls


def test_embeddings_agree_with_sentence_transformers(model_cache):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(embedding.model_folder()), device="cpu").encode(TEXTS)
    ours = embedding.embed(TEXTS, model_cache, device="cpu")
    cosines = (plain * ours).sum(axis=1)
    assert cosines.mean() >= 0.99
    # How 8 bits round depends on the processor's instructions: the farthest text has been at 0.977 and above 0.98.
    assert cosines.min() >= 0.97
    assert ours.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_exact_embeddings_are_those_of_sentence_transformers_whatever_stands_beside_a_text(model_cache, tmp_path):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(embedding.model_folder()), device="cpu").encode(TEXTS)
    together = embedding.embed(TEXTS, model_cache, device="cpu", exact=True)
    alone = np.concatenate([embedding.embed([text], tmp_path / str(n), "cpu", True) for n, text in enumerate(TEXTS)])
    np.testing.assert_allclose(together, plain, atol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(embedding.embed(TEXTS, model_cache, device="cpu") - plain).max() > 1e-3, "the same folder keeps both"


def test_each_text_keeps_its_place_whatever_its_length(model_cache):
    there = embedding.embed(TEXTS, model_cache, device="cpu")
    back = embedding.embed(TEXTS[::-1], model_cache / "other", device="cpu")
    assert (there * back[::-1]).sum(axis=1).min() > 0.999


def test_no_texts_give_an_empty_array(tmp_path):
    assert embedding.embed([], tmp_path).shape == (0, 384)


def test_equal_texts_are_embedded_once(tmp_path, asked):
    vectors = embedding.embed(["a", "b", "a", "a", ""], tmp_path, device="cpu")
    assert asked == [["a", "b", ""]]
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


def test_a_second_run_computes_only_what_is_new(tmp_path, asked):
    first = embedding.embed(["a", "b"], tmp_path, device="cpu")
    second = embedding.embed(["c", "b", "a"], tmp_path, device="cpu")
    assert asked == [["a", "b"], ["c"]]
    np.testing.assert_array_equal(second[[2, 1]], first)


def test_a_killed_run_goes_on_from_the_last_whole_file(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 2)
    embedding.embed(["a", "b", "c", "d"], tmp_path, device="cpu")
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    whole, cut = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
    # What a kill leaves behind: half of a file that has not got its final name.
    (folder / "cut.partial").write_bytes(cut.read_bytes()[:1000])
    cut.unlink()
    embedding.embed(["a", "b", "c", "d"], tmp_path, device="cpu")
    assert asked == [["a", "b"], ["c", "d"], ["c", "d"]]
    assert whole.exists()


def test_a_damaged_file_is_passed_over(tmp_path, asked):
    expected = embedding.embed(["a"], tmp_path, device="cpu")
    shard = next(tmp_path.glob("*/*.npz"))
    shard.write_bytes(shard.read_bytes()[:500])
    np.testing.assert_array_equal(embedding.embed(["a"], tmp_path, device="cpu"), expected)
    assert asked == [["a"], ["a"]]


def test_another_way_of_computing_has_its_own_cache(tmp_path, asked):
    embedding.embed(["a"], tmp_path, device="cpu")
    embedding.embed(["a"], tmp_path, device="cuda")
    assert len(asked) == 2
