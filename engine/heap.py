"""What the C library keeps of freed memory."""

import ctypes
from contextlib import suppress


def give_back_freed() -> None:
    """To the system. For after something large was built of many small pieces; takes milliseconds.

    Does nothing where the C library has no such call (only glibc has).
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
