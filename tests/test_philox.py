"""The counter-based random numbers: published vectors, places, laws, and the kernel's bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from accel import Ops, philox
from accel.cuda import kernel_table
from tests import backends, checks
from tests.shim import device
from tests.shim.build import compiler
from tests.shim.library import ShimLib

Words = tuple[int, ...]
FULL = 0xFFFFFFFF
KNOWN: list[tuple[Words, Words, Words]] = [  # counter, key, result: Random123's kat_vectors
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL, FULL, FULL, FULL), (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
KEY = 0x0123456789ABCDEF
keys = st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module", params=["shim", pytest.param("cupy", marks=pytest.mark.gpu)])
def there(request: pytest.FixtureRequest) -> Ops:
    """Ops on a device's own arrays."""
    return backends.ops_of(request.param)


# ----- Known answers -----


def test_known_answers() -> None:
    """Word by word, and all at once."""
    for counter, key, expected in KNOWN:
        assert philox.philox(counter, key) == expected  # type: ignore[arg-type]
        columns = [np.full((2, 3), word, np.uint64) for word in counter]
        for found, word in zip(philox.philox(tuple(columns), key), expected, strict=True):  # type: ignore[arg-type]
            np.testing.assert_array_equal(found, np.full((2, 3), word))


@pytest.mark.skipif(compiler() is None, reason="no g++: the kernels cannot run on this CPU")
def test_known_answers_of_the_kernel(tmp_path: Path) -> None:
    """Its permutation alone, in the place of another kernel: words as doubles, counter and key in, result out."""
    head = "template <typename T> __global__ void column_sum(T* out, const T* x, int64 rows, int columns)"
    body = """
        if (threadIdx.x > 0) return;
        Counter at = {(uint32)x[0], (uint32)x[1], (uint32)x[2], (uint32)x[3]};
        at = philox(at, (uint64)x[5] << 32 | (uint64)x[4]);
        out[0] = at.a; out[1] = at.b; out[2] = at.c; out[3] = at.d;
    """
    code = f"{kernel_table.code('philox')}\n{head} {{ {body} }}\n"
    lib = ShimLib(tmp_path, sources={"columns": code}, types=("double",))
    for counter, key, expected in KNOWN:
        out, x = lib.empty((4,), np.float64), device.xp.asarray(np.array((*counter, *key), np.float64))
        lib.launch("column_sum", "double", 1, out, x, 1, 1)
        assert out.get().tolist() == list(expected)


def test_numbers_are_the_first_bits_of_the_words() -> None:
    """A counter is (pair of columns, 0, row) and gives two numbers, each 53 bits of two words."""
    a, b, c, d = KNOWN[0][2]
    expected = [((high << 32) + low >> 11) / 2**53 for high, low in ((a, b), (c, d))]
    assert philox.uniform(0, 1, 2).tolist() == [expected]
    words = philox.philox((3, 0, 5, 0), (0x89ABCDEF, 0x01234567))
    assert philox.uniform(KEY, 6, 8)[5, 7] == ((words[2] << 32) + words[3] >> 11) / 2**53


# ----- Places -----


@given(key=keys, size=st.integers(0, 9), length=st.integers(0, 9))
def test_a_number_hangs_on_its_key_and_place(key: int, size: int, length: int) -> None:
    """Not on how many others there are; all are different."""
    found = philox.uniform(key, size, length)
    assert found.shape == (size, length)
    assert found.flags.c_contiguous
    assert np.array_equal(found, philox.uniform(key, 11, 12)[:size, :length])
    both = np.concatenate([found, philox.uniform(key ^ 1 << 40, size, length)])
    assert len(np.unique(both)) == both.size


@settings(max_examples=15)
@given(key=keys, size=st.integers(0, 40), length=st.integers(0, 40))
def test_the_kernel_gives_the_same_bits(there: Ops, key: int, size: int, length: int) -> None:
    found = there.uniform(key, size, length).get()
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found.view(np.uint64), Ops().uniform(key, size, length).view(np.uint64))


@pytest.mark.parametrize("key", [-1, 2**64])
def test_keys_have_64_bits(there: Ops, key: int) -> None:
    for call in (
        lambda: Ops().uniform(key, 2, 2),
        lambda: there.uniform(key, 2, 2),
        lambda: philox.subkey(key, 0),
    ):
        with pytest.raises(ValueError, match=rf"a key must be >= 0 and < 2\^64, got {key}"):
            call()


def test_subkeys_differ() -> None:
    """From each other, from those of another key, and from the numbers that `uniform` makes of the same key."""
    numbers = [*range(1000), 2**32, 2**40 + 1, 2**64 - 1]
    found = [philox.subkey(key, number) for key in (0, 1, KEY) for number in numbers]
    assert len(set(found)) == len(found)
    assert all(0 <= key < 2**64 for key in found)
    assert philox.subkey(0, 0) != KNOWN[0][2][1] << 32 | KNOWN[0][2][0]


# ----- Laws -----


def chi_squared(*numbers: Any) -> float:
    """The p-value of independence and uniformity of numbers side by side, 16 cells each."""
    cells = sum((values.ravel() * 16).astype(np.int64) * 16**i for i, values in enumerate(numbers))
    return float(chisquare(np.bincount(cells, minlength=16 ** len(numbers))).pvalue)


def test_uniform_and_independent() -> None:
    """Alone, beside the neighbour of the same counter and of the next, in the next row, and under the next key."""
    found = philox.uniform(KEY, 600, 500)
    pairs = [
        (found,),
        (found[:, ::2], found[:, 1::2]),
        (found[:, 1:-1:2], found[:, 2::2]),
        (found[:-1], found[1:]),
        (found, philox.uniform(KEY + 1, 600, 500)),
        (found[:, :-2], found[:, 1:-1], found[:, 2:]),
    ]
    assert min(chi_squared(*numbers) for numbers in pairs) > checks.CHANCE
    assert chi_squared(found**1.01) < checks.CHANCE  # the test itself


def test_every_bit_is_fair() -> None:
    """Of the 53, over 300,000 numbers: none further than 5 deviations from a half."""
    found = philox.uniform(KEY, 600, 500)
    bits = (found * 2**53).astype(np.uint64).ravel()
    shares = np.array([(bits >> np.uint64(i) & np.uint64(1)).mean() for i in range(53)])
    assert found.max() < 1
    assert np.all(bits == found.ravel() * 2**53)
    assert np.abs(shares - 0.5).max() < 5 * 0.5 / np.sqrt(found.size)
