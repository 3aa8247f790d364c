"""Hypothesis runs the same examples every time; `--hypothesis-profile explore` draws new ones."""

from typing import Any

import pytest
from hypothesis import settings

from tests import backends

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=40)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("fixed")


@pytest.fixture(scope="session", params=backends.NAMES)
def ops(request: pytest.FixtureRequest) -> Any:
    """Every backend in turn, for NumPy arrays."""
    return backends.backend(request.param)


@pytest.fixture(scope="session", params=backends.NAMES)
def network_ops(request: pytest.FixtureRequest) -> Any:
    """The same for tests of whole networks: each launch of a kernel under one schedule, the next in turn."""
    return backends.backend(request.param, in_turn=True)
