"""What ties rows together: equal texts, near-duplicates, and texts of which one contains the other.

Texts come normalised (`splits.normalise`) and in batches. What is kept of each is on disk, since it is many times what
is in memory: signatures, and where one text may be found in another.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rensa import RMinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Sixteen bands of four find 99.98 % of the pairs that are 0.8 alike, 89 % at 0.6; the whole signature then decides.
_BANDS, _BAND_ROWS = 16, 4
#: Shingles are runs of three words, and in short texts also runs of five bytes: one word more or less changes most runs
#: of words there.
_SHINGLE_WORDS, _SHINGLE_BYTES = 3, 5
#: With fewer words a text is too short for its shingles to mean anything: of words, and of bytes.
_MIN_WORDS, _MIN_WORDS_OF_SHORT = 8, 4
_LONGEST_SHORT = 64
#: Fewer words than this are a phrase that many texts may contain.
_WINDOW = 8
#: Signatures that are compared at a time.
_AT_ONCE = 2**18
#: A run of words that so many texts have in common is a formula, and leads from none of them to another.
_COMMON = 50
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)


class Words:
    """The words of some texts as 64-bit numbers, one text after the other.

    Attributes:
        starts: (texts + 1,) where each text begins.
        lengths: (texts,) how many words each has.
    """

    def __init__(self, texts: list[str]) -> None:
        split = pc.utf8_split_whitespace(pa.array(texts, pa.large_string()))
        self.starts = np.asarray(split.offsets)
        self.lengths = np.diff(self.starts)
        words = split.flatten().dictionary_encode()
        hashes = np.array(RMinHash.hash_token_sets([words.dictionary.to_pylist()])[0], dtype=np.uint64)
        hashes = hashes[words.indices.to_numpy()]
        # Of a run of words the hash is a polynomial; sums of its terms give that of every run at once.
        self._powers = _powers(_INVERSE, len(hashes) + 1)
        self._sums = np.zeros(len(hashes) + 1, dtype=np.uint64)
        np.cumsum(hashes * _powers(_BASE, len(hashes)), out=self._sums[1:])

    def runs(self, begin: np.ndarray, length: np.ndarray | int) -> np.ndarray:
        """Hashes of runs of words, by where they begin and how long they are."""
        return _mix((self._sums[begin + length] - self._sums[begin]) * self._powers[begin])

    def shingles(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of the runs of three words of the texts at these places, and how many each has."""
        begins, counts = self.windows(_SHINGLE_WORDS)
        ends, counts = np.cumsum(counts)[texts], counts[texts]
        return self.runs(begins[np.repeat(ends - counts, counts) + _places(counts)], _SHINGLE_WORDS), counts

    @cached_property
    def phrases(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`windows` of eight words, and their hashes."""
        begins, counts = self.windows(_WINDOW)
        return begins, counts, self.runs(begins, _WINDOW)

    def windows(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each run of `size` words within one text begins, and (texts,) how many there are in each text."""
        counts = np.maximum(self.lengths - size + 1, 0)
        first = np.repeat(self.starts[:-1], counts)
        return first + _places(counts), counts


def _powers(base: int, count: int) -> np.ndarray:
    factors = np.full(count, base, dtype=np.uint64)
    factors[:1] = 1
    return np.multiply.accumulate(factors)


def _places(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... up to each count."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _mix(hashes: np.ndarray) -> np.ndarray:
    """Every bit of the result hangs on every bit of the hash (splitmix64)."""
    hashes = hashes ^ (hashes >> np.uint64(30))
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


class Ties:
    """Rows that belong together, found tie by tie: rows of the same `component` do."""

    def __init__(self, rows: int) -> None:
        self.component = np.arange(rows, dtype=np.int32)

    def tie(self, one: np.ndarray, other: np.ndarray) -> None:
        """The rows at the same place of both belong together."""
        one, other = self.component[one], self.component[other]
        apart = one != other
        if apart.any():
            edges = (one[apart], other[apart])
            count = len(self.component)
            graph = coo_array((np.ones(apart.sum(), dtype=np.int8), edges), shape=(count, count))
            self.component = connected_components(graph, directed=False)[1][self.component]

    def tie_equal(self, rows: np.ndarray, keys: np.ndarray) -> None:
        """Rows with the same key belong together."""
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(np.diff(keys[order]) == 0)
        self.tie(rows[order[same]], rows[order[same + 1]])


class Texts:
    """What is known of the texts of one kind, all prompts or all outputs, so that those that say the same are found.

    A text is called by its hash. Everything is in files under `folder`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._by_words, self._by_bytes = _Signatures(folder / "words"), _Signatures(folder / "bytes")
        self._inside = _Inside(folder / "inside")

    def add(self, first: int, names: np.ndarray, texts: list[str]) -> None:
        """The texts of the rows from number `first` on."""
        # Copies within a batch say nothing new.
        places = np.unique(names, return_index=True)[1]
        names, words = names[places], Words([texts[place] for place in places])
        some = np.flatnonzero(words.lengths >= _MIN_WORDS)
        self._by_words.add(names[some], *words.shingles(some))
        some = np.flatnonzero((words.lengths >= _MIN_WORDS_OF_SHORT) & (words.lengths <= _LONGEST_SHORT))
        self._by_bytes.add(names[some], *_shingles_of_bytes([texts[place] for place in places[some]]))
        self._inside.add(first + places, words)

    def near_duplicates(self, names: np.ndarray, similarity: float) -> tuple[np.ndarray, np.ndarray]:
        """Which of some texts are alike: places in `names`, which rise, of texts and of one that each is like.

        Alike are two texts whose shingles have a Jaccard similarity of at least `similarity`, as MinHash estimates it:
        runs of three words in texts of 8 words or more, runs of five bytes in texts of 4 to 64 words.
        """
        found = [some.pairs(names, similarity) for some in (self._by_words, self._by_bytes)]
        one, other = (np.concatenate(places) for places in zip(*found, strict=True))
        return one, other

    def alike(self, one: np.ndarray, other: np.ndarray, similarity: float) -> tuple[np.ndarray, np.ndarray]:
        """Which of some texts are near-duplicates of which others: the names of every pair, in any order."""
        found = [some.between(one, other, similarity) for some in (self._by_words, self._by_bytes)]
        left, right = (np.concatenate(names) for names in zip(*found, strict=True))
        return left, right

    def keep(self, rows: np.ndarray) -> None:
        """Look from now on only for texts of these rows (boolean, by row) in others."""
        self._inside.keep(rows)

    def contained_in(self, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """A row of each text of at least eight words that is part of one of these, and the place of that one."""
        return self._inside.contained_in(words)


class _Signatures:
    """MinHash signatures of texts. A file for each band."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._names = (folder / "names").open("wb")
        self._files = [(folder / str(band)).open("wb") for band in range(_BANDS)]

    def add(self, names: np.ndarray, shingles: np.ndarray, counts: np.ndarray) -> None:
        """Sign texts. One that comes again, in another call, is signed again."""
        offsets = np.append(0, np.cumsum(counts)).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets, _BANDS * _BAND_ROWS, 0)
        digests = np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, _BANDS, _BAND_ROWS)
        names.tofile(self._names)
        for band, file in enumerate(self._files):
            digests[:, band].tofile(file)

    def pairs(self, names: np.ndarray, similarity: float) -> tuple[np.ndarray, np.ndarray]:
        """As `Texts.near_duplicates`."""
        for file in (self._names, *self._files):
            file.close()
        signed = np.fromfile(self._names.name, dtype=names.dtype)
        # In the order of names, so that who leads a bucket does not hang on the order of the rows.
        at = np.unique(signed, return_index=True)[1].astype(np.int32)
        signed = signed[at]
        # Both rise: of each signed name, where it would be.
        places = np.searchsorted(names, signed).astype(np.int32)
        asked = names[np.minimum(places, len(names) - 1)] == signed if len(names) else np.zeros(len(at), dtype=bool)
        del signed
        at, places = at[asked], places[asked]
        members, leaders = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        known = Ties(len(at))
        for band in range(_BANDS) if len(at) else ():
            member, leader = _in_one_bucket(self._keys(band)[at])
            apart = known.component[member] != known.component[leader]
            member, leader = member[apart], leader[apart]
            if len(member):
                alike = self._equal(at[member], at[leader]) / (_BANDS * _BAND_ROWS) >= similarity
                known.tie(member[alike], leader[alike])
                members.append(places[member[alike]])
                leaders.append(places[leader[alike]])
        return np.concatenate(members), np.concatenate(leaders)

    def between(self, one: np.ndarray, other: np.ndarray, similarity: float) -> tuple[np.ndarray, np.ndarray]:
        """As `Texts.alike`."""
        for file in (self._names, *self._files):
            file.close()
        signed = np.fromfile(self._names.name, dtype=one.dtype)
        left, right = (np.flatnonzero(np.isin(signed, names)) for names in (one, other))
        lefts, rights = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for band in range(_BANDS) if len(left) and len(right) else ():
            keys = self._keys(band)
            right = right[np.argsort(keys[right], kind="stable")]
            low, high = (np.searchsorted(keys[right], keys[left], side) for side in ("left", "right"))
            lefts.append(np.repeat(left, high - low))
            rights.append(right[np.repeat(low, high - low) + _places(high - low)])
        pairs = np.unique(np.stack([np.concatenate(lefts), np.concatenate(rights)]), axis=1)
        pairs = pairs[:, self._equal(*pairs) / (_BANDS * _BAND_ROWS) >= similarity]
        return signed[pairs[0]], signed[pairs[1]]

    def _equal(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """In how many of its numbers the signature at each of these places equals the one at the other place."""
        equal = np.zeros(len(one), dtype=np.int16)
        for band in range(_BANDS):
            digests = self._band(band)
            for start in range(0, len(one), _AT_ONCE):
                some = slice(start, start + _AT_ONCE)
                equal[some] += (digests[one[some]] == digests[other[some]]).sum(axis=1, dtype=np.int16)
        return equal

    def _keys(self, band: int) -> np.ndarray:
        """One number for a band of each signature: where it is another, so is the band."""
        # Never a whole band in memory: its keys are half as large.
        found = []
        with Path(self._files[band].name).open("rb") as file:
            while len(halves := np.fromfile(file, np.uint64, 2 * _AT_ONCE).reshape(-1, 2)):
                found.append(_mix(halves[:, 0]) ^ halves[:, 1])
        return np.concatenate(found)

    def _band(self, band: int) -> np.ndarray:
        """One band of all signatures, shape (signatures, rows of a band)."""
        return np.fromfile(self._files[band].name, dtype=np.uint32).reshape(-1, _BAND_ROWS)


def _shingles_of_bytes(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the runs of five bytes of each text, one text after the other, and how many each has."""
    encoded = [text.encode() for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    counts = np.maximum(lengths - _SHINGLE_BYTES + 1, 0)
    begins = np.repeat(np.cumsum(lengths) - lengths, counts) + _places(counts)
    letters = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.uint64)
    hashes = np.zeros(len(begins), dtype=np.uint64)
    for place in range(_SHINGLE_BYTES):
        hashes |= letters[begins + place] << np.uint64(8 * place)
    return _mix(hashes), counts


def _in_one_bucket(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each text, but for the first, of a bucket that has several; and the first one of its bucket."""
    order = np.argsort(keys, kind="stable").astype(np.int32)
    keys = keys[order]
    new = np.append(True, keys[1:] != keys[:-1])
    del keys
    leads = np.flatnonzero(new)
    first = order[np.repeat(leads, np.diff(np.append(leads, len(new))))]
    return order[~new], first[~new]


_FOUND_BY = np.dtype(
    [("window", np.uint64), ("whole", np.uint64), ("offset", np.int32), ("length", np.int32), ("row", np.int32)]
)


class _Inside:
    """Texts of at least eight words that may be part of others, found by a run of words that each of them has.

    Of its runs of eight words a text is found by the one with the least hash: whatever contains the text contains it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._texts = np.zeros(0, _FOUND_BY)
        # By the last bits of a hash, whether it may be one of theirs: far quicker than to look for it among them.
        self._sieve = np.zeros(1, dtype=bool)

    def add(self, rows: np.ndarray, words: Words) -> None:
        """Note texts, each of one row."""
        begins, counts, hashes = words.phrases
        some = np.flatnonzero(counts)
        if not len(some):
            return
        counts = counts[some]
        least = np.repeat(np.minimum.reduceat(hashes, np.cumsum(counts) - counts), counts)
        text = np.repeat(np.arange(len(some)), counts)
        found = np.flatnonzero(hashes == least)
        found = found[np.unique(text[found], return_index=True)[1]]
        texts = np.empty(len(some), _FOUND_BY)
        texts["window"], texts["row"] = hashes[found], rows[some]
        texts["offset"], texts["length"] = begins[found] - words.starts[some], words.lengths[some]
        texts["whole"] = words.runs(words.starts[some], words.lengths[some])
        with self._file.open("ab") as file:
            texts.tofile(file)

    def keep(self, rows: np.ndarray) -> None:
        """Of equal texts one, and only those of these rows (boolean, by row)."""
        if not self._file.is_file():
            return
        texts = np.fromfile(self._file, _FOUND_BY)
        at = np.flatnonzero(rows[texts["row"]])
        at = at[np.unique(texts["whole"][at], return_index=True)[1]]
        at = at[np.argsort(texts["window"][at], kind="stable")]
        _, of, times = np.unique(texts["window"][at], return_inverse=True, return_counts=True)
        self._texts = texts[at[times[of] <= _COMMON]]
        self._sieve = np.zeros(2 ** min(27, 10 + len(texts).bit_length()), dtype=bool)
        self._sieve[self._texts["window"] & np.uint64(len(self._sieve) - 1)] = True

    def contained_in(self, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """As `Texts.contained_in`."""
        begins, counts, hashes = words.phrases
        hit = np.flatnonzero(self._sieve[hashes & np.uint64(len(self._sieve) - 1)])
        low, high = (np.searchsorted(self._texts["window"], hashes[hit], side) for side in ("left", "right"))
        times = high - low
        texts = self._texts[np.repeat(low, times) + _places(times)]
        container = np.repeat(np.repeat(np.arange(len(counts)), counts)[hit], times)
        begin = np.repeat(begins[hit], times) - texts["offset"]
        within = (begin >= words.starts[container]) & (begin + texts["length"] <= words.starts[container + 1])
        texts, container, begin = texts[within], container[within], begin[within]
        same = words.runs(begin, texts["length"]) == texts["whole"]
        return texts["row"][same], container[same]
