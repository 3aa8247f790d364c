"""The part of CupyOps that draws: random numbers, made where they are used."""

from __future__ import annotations

import numpy as np

from accel import philox
from accel.buffers import Array
from accel.kernel_lib import KernelLib
from accel.ops_sequence import SequenceOps


class CupySamplingOps(SequenceOps):
    """Draws on the arrays of xp with the kernels of lib."""

    lib: KernelLib

    def uniform(self, key: int, size: int, length: int) -> Array:
        philox.words_of(key)
        out = self.lib.empty((size, length), np.float64)
        self.lib.launch("philox_uniform", "double", size * ((length + 1) // 2), out, key, size, length)
        return out
