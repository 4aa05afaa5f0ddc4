"""API keys: who may use the API, under which name, how much and how early. No I/O but the file.

A key is one line: the key, then options, such as ``sk-123 name=alice requests=4
tokens_per_minute=9000 max_borrowed=64 priority=1``. Only digests are kept, and no message names a
key.
"""

import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError

KEY_VARIABLE = "LENDKV_API_KEY"
MAX_PRIORITY = 1000
"""priorities lie between minus this and this; a lower number is served earlier"""
OPTIONS = {
    "requests": ("max_requests", 1, 1 << 31),
    "tokens_per_minute": ("tokens_per_minute", 1, 1 << 48),
    "max_borrowed": ("max_borrowed", 0, 1 << 31),
    "priority": ("priority", -MAX_PRIORITY, MAX_PRIORITY),
}
"""option -> field, least and most"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenant:
    """Whoever a key belongs to."""

    name: str = ""
    max_requests: int = 0
    """at once; 0: any number"""
    tokens_per_minute: int = 0
    """of prompts and answers; 0: any number"""
    max_borrowed: int | None = None
    """blocks of others that its requests may have at one instance; None: any number"""
    priority: int = 0
    """of requests that name none; no request of a named tenant is served earlier"""

    def priority_of(self, wanted: int | None) -> int:
        """Of a request that asks for this one."""
        if wanted is None:
            return self.priority
        return max(wanted, self.priority) if self.name else wanted


ANYBODY = Tenant()
"""every client, where there are no keys"""


class ApiKeys:
    """Digests of keys and their tenants; without any, everybody is welcome."""

    def __init__(self, lines: Iterable[tuple[str, str]]) -> None:
        """``lines`` with where each comes from; raises ConfigError with all that is wrong."""
        self._tenants: list[tuple[bytes, Tenant]] = []
        problems: list[str] = []
        for where, line in lines:
            words = line.split()
            if words and not words[0].startswith("#"):
                self._add(where, words, problems)
        if problems:
            raise ConfigError(*problems)

    @staticmethod
    def read(keys: Sequence[str], path: str) -> "ApiKeys":
        """Keys of the configuration, of a file, and of the environment. Raises ConfigError."""
        lines = [(f"serve.api_keys, number {n}", line) for n, line in enumerate(keys, 1)]
        if path:
            try:
                text = Path(path).expanduser().read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"serve.api_key_file={path} cannot be read: {error}") from error
            lines += [(f"{path}, line {n}", line) for n, line in enumerate(text.splitlines(), 1)]
        given = os.environ.get(KEY_VARIABLE, "")
        found = ApiKeys([*lines, *((KEY_VARIABLE, line) for line in given.splitlines())])
        if (keys or path or KEY_VARIABLE in os.environ) and not found:
            raise ConfigError("API keys are wanted and there is none: nobody could use the API")
        return found

    def __len__(self) -> int:
        return len(self._tenants)

    def find(self, authorization: str) -> Tenant | None:
        """The tenant of an ``Authorization`` header; all keys are compared, whichever fits."""
        if not self._tenants:
            return ANYBODY
        scheme, _, key = authorization.partition(" ")
        digest, found = _digest(key.strip()), None
        for known, tenant in self._tenants:
            if hmac.compare_digest(known, digest) and scheme.lower() == "bearer":
                found = tenant
        return found

    def _add(self, where: str, words: Sequence[str], problems: list[str]) -> None:
        name, limits = f"key-{len(self._tenants) + 1}", {}
        for word in words[1:]:
            option, _, value = word.partition("=")
            if option == "name" and value:
                name = value
                continue
            if option not in OPTIONS:
                allowed = ", ".join(("name", *OPTIONS))
                problems.append(f"{where}: {option!r} is no option of a key; there are {allowed}")
                continue
            field, least, most = OPTIONS[option]
            if not value.removeprefix("-").isdecimal() or not least <= int(value) <= most:
                problems.append(f"{where}: {word} must be between {least} and {most}")
                continue
            limits[field] = int(value)
        digest = _digest(words[0])
        if any(digest == known for known, _ in self._tenants):
            problems.append(f"{where}: this key is given twice")
        if any(name == tenant.name for _, tenant in self._tenants):
            problems.append(f"{where}: the name {name!r} is given to two keys")
        self._tenants.append((digest, Tenant(name=name, **limits)))


NO_KEYS = ApiKeys(())


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
