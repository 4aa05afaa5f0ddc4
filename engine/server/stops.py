"""Stop strings over streamed text: nothing of a stop, or of what may become one, gets out."""

from collections.abc import Sequence


class StopFilter:
    """``push`` text, send what it returns; ``stopped`` once a stop string was seen: ``found``."""

    def __init__(self, stops: Sequence[str], *, keep: bool = False) -> None:
        """``keep``: the stop itself is sent as well, once it is whole."""
        self._stops = tuple(stops)
        self._keep = keep
        self._held = ""
        self.stopped = False
        self.found: str | None = None

    def push(self, text: str) -> str:
        """What may be sent now; the end that could be a stop's beginning is held back."""
        if self.stopped:
            return ""
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            at, self.found = min(found)
            end = at + len(self.found) if self._keep else at
            sent, self._held = self._held[:end], ""
            return sent
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        sent, self._held = self._held[:cut], self._held[cut:]
        return sent

    def flush(self) -> str:
        """The text ended without a stop: what was held back."""
        sent, self._held = self._held, ""
        return sent

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins this stop."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
