"""Named shared memory that the engine or its tests may have left behind."""

import os

OTHERS = ("__KMP_REGISTERED_LIB", ".org.chromium", ".com.google", "sem.mp-")
"""how names begin of what OpenMP runtimes, browsers and clients' process pools beside us make"""


def names() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if not name.startswith(OTHERS)}
