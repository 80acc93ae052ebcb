"""Independent random streams, derived from a seed and from names."""

import zlib

import numpy as np

from ravl_core.checks import whole_number


def stream(seed: int, *names: object) -> np.random.Generator:
    """A generator that depends on `seed` and on every name, and on nothing else.

    Streams with different names are independent, so that one more draw in one place changes nothing in another.
    """
    seed = whole_number("seed", seed, 0)
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])
