"""Fetcher: brings lent blocks home in the background; the counterpart of the Mover."""

from engine.attention.block_reads import BlockReads
from engine.scheduler.effects import Fetch


class Fetcher:
    """Fetches under way, by sequence and leaf."""

    def __init__(self, reads: BlockReads) -> None:
        self._reads = reads
        self._fetches: dict[tuple[int, int], Fetch] = {}

    @property
    def busy(self) -> bool:
        return bool(self._fetches)

    def add(self, fetch: Fetch) -> None:
        self._fetches[fetch.sequence, fetch.leaf] = fetch
        self._reads.ask(fetch.ref, fetch.block)

    def cancel(self, sequence: int, leaf: int | None = None) -> None:
        """Stop one leaf, or all of the sequence's."""
        for key, fetch in list(self._fetches.items()):
            if key[0] == sequence and leaf in (None, key[1]):
                self._reads.cancel(fetch.ref, fetch.block)
                del self._fetches[key]

    def drop_instance(self, instance: int) -> None:
        for key, fetch in list(self._fetches.items()):
            if fetch.ref.instance == instance:
                self.cancel(*key)

    def arrived(self) -> list[Fetch]:
        """Fetches that are complete, each told once."""
        here = [fetch for fetch in self._fetches.values() if self._reads.is_here(fetch.ref)]
        for fetch in here:
            del self._fetches[fetch.sequence, fetch.leaf]
        return here
