"""Constrained: requests whose answers must match a grammar, compiled beside the step loop.

Such a request is held back until its grammar is compiled, while others run.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from engine.core import Request
from engine.errors import GrammarError, LendKVError
from engine.model.grammar import Compiler, Matcher, compiling_thread
from engine.scheduler.sequence import Sequence


class Constrained:
    """``prepare`` a request; when ``fileno`` is readable, ``prepared`` has some."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._thread = compiling_thread()
        self._matchers: dict[str, Matcher | None] = {}
        """by request id; None while its grammar is being compiled"""
        self._done: deque[tuple[Request, Matcher | Exception]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)

    def get_ready(self) -> None:
        """For the first grammar; to be called before there are requests, which would wait."""
        self._compiler.prepare_early()

    def fileno(self) -> int:
        return self._bell

    def prepare(self, request: Request) -> None:
        """Compile the request's grammar and read what there is of its answer, in a thread."""
        self._matchers[request.request_id] = None
        self._thread.submit(self._prepare, request)

    def prepared(self) -> list[tuple[Request, str]]:
        """Requests that can run, and those that cannot with the reason why."""
        if not self._done:
            return []
        ready = []
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        while self._done:
            request, found = self._done.popleft()
            if request.request_id not in self._matchers:
                continue  # nobody wants it any more
            if isinstance(found, Matcher):
                self._matchers[request.request_id] = found
                ready.append((request, ""))
            else:
                del self._matchers[request.request_id]
                ready.append((request, str(found)))
        return ready

    def allowed(
        self, sequences: Iterable[Sequence], refuse: Callable[[Sequence, str], None]
    ) -> dict[int, NDArray[np.bool_]]:
        """Tokens ``[V]`` that may come next in the answers that are constrained, by index.

        ``refuse`` is told of those that cannot go on.
        """
        allowed = {}
        for index, sequence in enumerate(sequences):
            matcher = self._matchers.get(sequence.request.request_id)
            if matcher is not None:
                try:
                    allowed[index] = matcher.allowed()
                    ids = sequence.request.sampling.allowed_token_ids
                    if ids and not allowed[index][list(ids)].any():
                        raise GrammarError("no token of allowed_token_ids continues the answer")
                except GrammarError as error:
                    refuse(sequence, str(error))
        return allowed

    def completes(self, sequence: Sequence, token: int) -> bool:
        """The answer ends with this token, for nothing may follow."""
        matcher = self._matchers.get(sequence.request.request_id)
        return matcher is not None and matcher.take(token)

    def forget(self, request_id: str) -> None:
        """It is over, or was aborted."""
        self._matchers.pop(request_id, None)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        os.close(self._bell)

    def _prepare(self, request: Request) -> None:
        sampling = request.sampling
        found: Matcher | Exception
        try:
            found = self._compiler.matcher(sampling.grammar, ignore_eos=sampling.ignore_eos)
            found.read(request.answer_ids)
        except LendKVError as error:
            found = error
        except BaseException as error:  # the library's panics; a silent thread hangs its client
            found = GrammarError(f"the grammar cannot be compiled: {error}")
        self._done.append((request, found))
        os.eventfd_write(self._bell, 1)
