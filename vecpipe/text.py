"""Text to vectors without a model: hashed word and character n-grams (Weinberger et al. 2009).

The vectors are lexical: texts are near when they share words and parts of words, not when they mean the same. They
let one try vecpipe on real text with nothing to download.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vecpipe.arrays import Float32, Mask
from vecpipe.errors import InputError
from vecpipe.rules import MAX_DIM

Words = npt.NDArray[np.uint64]

_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
_STOP = (
    b"a an and are as at be but by can do does for from has have how i if in into is it its no not of on or so than "
    b"that the their then there these this to was we what when where which who why will with you your"
)
_GRAM_SIZES = (3, 4, 5)
_BLOCK_BYTES = 1 << 20


def hash_embed(texts: Any, dim: int) -> tuple[Float32, Mask | None]:
    """Embed texts by feature hashing.

    Words, pairs of neighbouring words and character n-grams of 3 to 5 bytes inside words each add ±1 to a hashed
    dimension; the counts of each kind are damped to ``sign(c) log(1 + |c|)``, weighed (1, 0.5, 0.4) and the row is
    brought to length 1. The commonest English words count only within pairs.

    Parameters
    ----------
    texts
        Arrow string column.
    dim
        Width of the vectors.

    Returns
    -------
    (n, dim) float32 and the rows that have a vector
        NULL and texts without any word have none.

    Raises
    ------
    InputError
        The column does not hold text, or dim is out of range.
    """
    if not 8 <= dim <= MAX_DIM:
        raise InputError(f"vec_hash_embed: d is {dim}; expected an integer from 8 to {MAX_DIM}")
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if pa.types.is_null(texts.type):
        return np.zeros((len(texts), dim), np.float32), np.zeros(len(texts), bool)
    if not any(test(texts.type) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise InputError(f"vec_hash_embed: expected text, got {texts.type}")
    lowered = pc.utf8_lower(texts.cast(pa.large_string())).fill_null("")
    offsets = np.frombuffer(lowered.buffers()[1], np.int64, lowered.offset + len(lowered) + 1)[lowered.offset :]
    data = lowered.buffers()[2]
    raw = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    out = np.zeros((len(lowered), dim), dtype=np.float32)
    start = 0
    while start < len(lowered):
        stop = int(np.searchsorted(offsets, offsets[start] + _BLOCK_BYTES, side="right")) - 1
        stop = min(max(stop, start + 1), start + 2_048, len(lowered))
        block = raw[offsets[start] : offsets[stop]]
        out[start:stop] = _embed_block(block, offsets[start : stop + 1] - offsets[start], dim)
        start = stop
    lengths = np.sqrt(np.einsum("ij,ij->i", out, out, dtype=np.float64))
    valid = lengths > 0
    out /= np.where(valid, lengths, 1.0).astype(np.float32)[:, None]
    return out, None if valid.all() else valid


def _embed_block(raw: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], dim: int) -> npt.NDArray[np.float64]:
    """Embed the texts that lie one after the other in a buffer of lower-case bytes."""
    rows = len(offsets) - 1
    text_of = np.repeat(np.arange(rows), np.diff(offsets))
    letter = _IS_WORD[raw]
    first = letter.copy()
    first[1:] &= ~letter[:-1] | (text_of[1:] != text_of[:-1])
    last = letter.copy()
    last[:-1] &= ~letter[1:] | (text_of[1:] != text_of[:-1])
    begins, ends = np.flatnonzero(first), np.flatnonzero(last) + 1
    if begins.size == 0:
        return np.zeros((rows, dim))
    prefix, inverse = _prefix_hashes(raw)
    words = (prefix[ends] - prefix[begins]) * inverse[begins]
    owner = text_of[begins]
    told = ~np.isin(words, _STOP_HASHES)
    result = _add(owner[told], words[told], rows, dim, 1)
    near = owner[1:] == owner[:-1]
    pairs = words[:-1] * np.uint64(0xD6E8FEB86659FD93) + words[1:]
    result += 0.5 * _add(owner[1:][near], pairs[near], rows, dim, 2)
    told_at = np.repeat(told, ends - begins)
    inside = np.flatnonzero(letter)[told_at]
    word_end = np.repeat(ends, ends - begins)[told_at]
    for size in _GRAM_SIZES:
        at = inside[inside + size <= word_end]
        grams = (prefix[at + size] - prefix[at]) * inverse[at]
        result += 0.4 * _add(text_of[at], grams, rows, dim, 2 + size)
    return result


def _prefix_hashes(raw: npt.NDArray[np.uint8]) -> tuple[Words, Words]:
    """Return prefix sums of ``byte * base^i`` modulo 2^64 and the inverses of ``base^i``.

    The hash of bytes i to j is ``(prefix[j] - prefix[i]) * inverse[i]``, the same wherever they stand.
    """
    n = len(raw)
    powers = np.full(n + 1, _BASE, np.uint64)
    inverses = np.full(n + 1, np.uint64(pow(int(_BASE), -1, 1 << 64)), np.uint64)
    powers[0] = inverses[0] = 1
    np.multiply.accumulate(powers, out=powers)
    np.multiply.accumulate(inverses, out=inverses)
    prefix = np.zeros(n + 1, np.uint64)
    np.cumsum((raw.astype(np.uint64) + np.uint64(1)) * powers[:-1], out=prefix[1:])
    return prefix, inverses


def _add(owner: npt.NDArray[np.int64], features: Words, rows: int, dim: int, kind: int) -> npt.NDArray[np.float64]:
    """Return damped signed counts of hashed features, ``(rows, dim)``."""
    mixed = features * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(kind)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(32)
    sign = np.where(mixed >> np.uint64(63), 1.0, -1.0)
    bucket = (mixed % np.uint64(dim)).astype(np.int64)
    counts = np.bincount(owner * dim + bucket, sign, rows * dim).reshape(rows, dim)
    return np.asarray(np.sign(counts) * np.log1p(np.abs(counts)))


def _word_table() -> Mask:
    table = np.zeros(256, dtype=bool)
    for low, high in ((ord("a"), ord("z")), (ord("0"), ord("9")), (128, 255)):
        table[low : high + 1] = True
    table[ord("_")] = True
    return table


_IS_WORD = _word_table()


def _stop_hashes() -> Words:
    raw = np.frombuffer(_STOP, np.uint8)
    prefix, inverse = _prefix_hashes(raw)
    gaps = np.flatnonzero(raw == ord(" "))
    begins, ends = np.concatenate([[0], gaps + 1]), np.concatenate([gaps, [len(raw)]])
    return np.asarray((prefix[ends] - prefix[begins]) * inverse[begins])


_STOP_HASHES = _stop_hashes()
