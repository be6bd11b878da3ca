"""Types of NumPy arrays, declared once. Docstrings give their shapes: [P] one entry per prompt, [P, N] one per sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Int32s = NDArray[np.int32]
Integers = NDArray[np.integer[Any]]
"""Integers of any width: columns as Parquet keeps them."""
Bools = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
Strings = NDArray[np.str_]
Objects = NDArray[np.object_]
AnyArray = NDArray[np.generic]
