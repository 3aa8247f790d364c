"""What is raised where there is no answer, or none that is known to be right."""

from __future__ import annotations

from reference.annotators import Indices


class NotIdentifiableError(ValueError):
    """The wins do not determine the optimum: some items never win against some others, however indirectly.

    components: a list of index arrays, the strongly connected components of the graph of wins, by their
    smallest item. Within a component all differences are finite; between components they are not determined.
    """

    def __init__(self, message: str, components: list[Indices]) -> None:
        super().__init__(message)
        self.components = components


class NotConvergedError(RuntimeError):
    """Raised when a certificate is not reached; no result is returned."""


class NoFiniteFitError(ValueError):
    """Davidson's likelihood has no finite maximum for these wins and ties."""
