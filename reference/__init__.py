"""Learning from pairwise preferences as density estimation, exactly: the paper in NumPy."""

from reference import methods, targets
from reference.annotators import Annotator, Population
from reference.comparisons import Comparisons, win_matrix
from reference.inference import covariance
from reference.optimum import NotConvergedError, NotIdentifiableError, Optimum, optimum
from reference.pbde import PBDE

__all__ = [
    "PBDE",
    "Annotator",
    "Comparisons",
    "NotConvergedError",
    "NotIdentifiableError",
    "Optimum",
    "Population",
    "covariance",
    "methods",
    "optimum",
    "targets",
    "win_matrix",
]
