"""Heart: what a pool says of itself again and again, made anew only when something has changed."""

from typing import Any

from engine.memory.books import BlockState, Books
from engine.memory.lending import Lending
from engine.memory.loans import Debtor
from engine.memory.sketch import Sketcher
from engine.protocol import Heartbeat


class Heart:
    def __init__(self, own: Debtor, *, books: Books, lending: Lending) -> None:
        self._own = own
        self._books = books
        self._lending = lending
        self._sketcher = Sketcher(books)
        self._last: Heartbeat | None = None
        self._last_of: tuple[Any, ...] = ()
        """what it was made of: the state of the books, and what depends on more than that"""

    def beat(self, *, address: str, host: str, now: float) -> Heartbeat:
        lending = self._lending
        lendable, sketch = lending.num_lendable(now), self._sketcher.at(now)
        of = (self._books.num_changes, lendable, sketch, lending.is_on, address, host)
        if self._last is None or of != self._last_of:
            self._last, self._last_of = self._made(address, host, lendable, sketch), of
        return self._last

    def check(self) -> None:
        """What is said again is what would be said anew."""
        if self._last is None or self._last_of[0] != self._books.num_changes:
            return
        _, num_lendable, sketch, is_on, address, host = self._last_of
        if is_on == self._lending.is_on:
            assert self._last == self._made(address, host, num_lendable, sketch), "an old heartbeat"

    def _made(self, address: str, host: str, num_lendable: int, sketch: bytes) -> Heartbeat:
        books, lending = self._books, self._lending
        return Heartbeat(
            *self._own,
            address=address,
            host=host,
            num_blocks=books.num_blocks,
            num_free=books.num_available,
            num_lendable=num_lendable,
            num_lent=books.count(BlockState.LENT),
            num_lend_cap=lending.num_lend_cap,
            num_cached=books.count(BlockState.CACHED),
            lent=lending.loans.owed(),
            num_used=lending.num_used,
            sketch=sketch,
            num_evicted=books.num_evicted,
            num_empty=books.count(BlockState.FREE),
            lends=lending.is_on,
        )
