"""Products in tf32 and bfloat16: asked for, used by the whole language model, and as wrong as they must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accel import buffers, get_ops
from accel.cuda.ops import CupyOps
from accel.ops import Ops
from accel.sequence_ops import PRECISIONS, Precision
from accel.transformer import cross_entropy_step
from accel.transformer_params import TransformerConfig, transformer_init
from tests.backends import fetch, shim_folder
from tests.shim import device
from tests.shim.build import compiler
from tests.shim.library import ShimLib, rounded

CONFIG = TransformerConfig(20, 16, 2, 2, 16, 24, 12)
HALF_UNIT = {"float32": 0.0, "tf32": 2.0**-11, "bfloat16": 2.0**-8}  # a rounded number's error at most, relative


def shim(precision: Precision) -> CupyOps:
    if compiler() is None:
        pytest.skip("no g++: the kernels cannot run on this CPU")
    return CupyOps(device.xp, ShimLib(shim_folder(), in_turn=True), groups=3, precision=precision)


def step(ops: Ops, dtype: str = "float32") -> tuple[float, Any]:
    """Loss and gradient of a model that has settled nowhere, on the host."""
    rng = np.random.default_rng(0)
    first = transformer_init(rng, CONFIG, dtype)
    tokens = rng.integers(1, 20, (6, 12)) * (np.arange(12) < rng.integers(1, 13, (6, 1)))
    loss, grads = cross_entropy_step(ops, buffers.flatten(first, ops.xp)[1], tokens, CONFIG)
    return float(fetch(loss)), fetch(grads)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_of_every_precision(precision: Precision) -> None:
    """Off by about what its roundings are, and by no less than a thousandth of that: it was used. float32 is the
    default, and makes no such call."""
    ops = shim(precision)
    loss, grads = step(ops)
    exact_loss, exact = step(get_ops("numpy"), "float64")
    products = ops.lib.products  # type: ignore[attr-defined]
    if precision == "float32":
        assert products == []
        return
    assert set(products) == {precision}
    # forward, and two backward, of every kernel; the three projections are one
    assert len(products) == 3 * (4 * CONFIG.num_layers + 1)
    error, unit = np.abs(grads - exact).max() / np.abs(exact).max(), HALF_UNIT[precision]
    assert 1e-3 * unit < error < 30 * unit
    assert abs(loss - exact_loss) < 30 * unit * abs(exact_loss)


def test_float64_is_left_alone() -> None:
    ops = shim("tf32")
    np.testing.assert_array_equal(step(ops, "float64")[1], step(shim("float32"), "float64")[1])
    assert ops.lib.products == []  # type: ignore[attr-defined]


def test_rounding() -> None:
    """To the nearest, ties to even: 1 + 2^-11 lies between two tf32 numbers."""
    numbers = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-10, -(1 + 2.0**-11 + 2.0**-20)], np.float32)
    assert rounded(numbers, "tf32").tolist() == [1.0, 1 + 2.0**-9, 1 + 2.0**-10, -(1 + 2.0**-10)]
    assert rounded(np.array([1 + 2.0**-8, 3.14159], np.float32), "bfloat16").tolist() == [1.0, 3.140625]


def test_precision_is_checked() -> None:
    with pytest.raises(ValueError, match="precision must be one of float32, tf32, bfloat16, got half"):
        get_ops("cupy", precision="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="precision must go with cupy, got tf32 with numba"):
        get_ops("numba", precision="tf32")
