"""The Transformer's own tests, run again on the other backends: same functions, same tolerances."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests import test_transformer as plain

OF_ONE_OP: list[Callable[[], None]] = [
    plain.test_matmul,
    plain.test_bias_relu,
    plain.test_layer_norm,
    plain.test_embedding,
    plain.test_attention,
    plain.test_attention_sees_no_later_row_and_no_other_sequence,
    plain.test_token_log_p,
    plain.test_logits_of_thousands_do_not_overflow,
]
OF_NETWORKS: list[Callable[[], None]] = [
    plain.test_log_likelihood_and_every_gradient,
    plain.test_cross_entropy_step,
    plain.test_preference_step,
    plain.test_float32_samples,
    partial(plain.test_float32, 0),
]


def name(test: Callable[[], None]) -> str:
    return getattr(test, "__name__", "test_float32").removeprefix("test_")


@pytest.mark.parametrize("test", OF_ONE_OP, ids=name)
def test_op(ops: Any, test: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    run(ops, test, monkeypatch)


@pytest.mark.parametrize("test", OF_NETWORKS, ids=name)
def test_network(network_ops: Any, test: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    run(network_ops, test, monkeypatch)


def run(ops: Any, test: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    if ops.name == "numpy":
        pytest.skip("tests/test_transformer.py runs it")
    monkeypatch.setattr(plain, "OPS", ops)
    test()
