"""Learning from pairwise preferences as density estimation, exactly: the paper in NumPy."""

from reference import methods, targets
from reference.annotators import Annotator, Population
from reference.comparison_columns import Columns
from reference.comparisons import Comparisons, win_matrix
from reference.errors import NoFiniteFitError, NotConvergedError, NotIdentifiableError
from reference.inference.covariance import covariance
from reference.inference.fit import Fit, FitOptions, fit
from reference.inference.goodness_of_fit import GoodnessOfFit, goodness_of_fit
from reference.optimum import Optimum, optimum
from reference.pbde import PBDE

__all__ = [
    "PBDE",
    "Annotator",
    "Columns",
    "Comparisons",
    "Fit",
    "FitOptions",
    "GoodnessOfFit",
    "NoFiniteFitError",
    "NotConvergedError",
    "NotIdentifiableError",
    "Optimum",
    "Population",
    "covariance",
    "fit",
    "goodness_of_fit",
    "methods",
    "optimum",
    "targets",
    "win_matrix",
]
