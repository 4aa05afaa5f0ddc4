"""C++ helpers (attention kernel, atomics, mailbox) behind a plain C interface; no torch needed."""
