"""What environment variables set: how much memory caches may take. Each is read when it is used, and nowhere else."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fractions import Fraction

from vecpipe.errors import InputError

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([KMGT])(I?)B)?", re.IGNORECASE)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class ByteLimit:
    """A number of bytes that an environment variable sets.

    Attributes
    ----------
    variable : str
    default : int
        Bytes where the variable is not set.
    """

    variable: str
    default: int

    def read(self) -> int:
        """Return the bytes, as the environment is now.

        Raises
        ------
        InputError
            The variable holds no size.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        found = _SIZE.fullmatch(text.strip())
        if found is None:
            raise InputError(
                f"the environment variable {self.variable} is {text!r}; expected a number of bytes, or a size such as "
                "512MB or 4GiB (KB, MB, GB, TB in powers of 1000, KiB, MiB, GiB, TiB in powers of 1024)"
            )
        number, unit, binary = found.groups()
        scale = (1024 if binary else 1000) ** _POWERS[unit.upper()] if unit else 1
        return int(Fraction(number) * scale)


MODEL_CACHE = ByteLimit("VECPIPE_MODEL_CACHE_BYTES", 4 << 30)
QUERY_CACHE = ByteLimit("VECPIPE_QUERY_CACHE_BYTES", 512 << 20)
JOIN_CACHE = ByteLimit("VECPIPE_JOIN_CACHE_BYTES", 1 << 30)
INDEXES = ByteLimit("VECPIPE_INDEX_BYTES", 8 << 30)
RESIDENT_CODES = ByteLimit("VECPIPE_RESIDENT_BYTES", 2 << 30)
ALL = (MODEL_CACHE, QUERY_CACHE, JOIN_CACHE, INDEXES, RESIDENT_CODES)
