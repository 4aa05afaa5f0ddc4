"""Constraints: what an answer must be like, checked before its request is accepted."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from engine.core import MAX_GRAMMAR
from engine.errors import LendKVError
from engine.model.grammar import Compiler
from engine.model.tokenizer import Tokenizer
from engine.server.problems import Problem
from engine.server.schemas import Common
from engine.server.structured import grammar_of


class Constraints:
    """Grammars for the answers of one model."""

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int) -> None:
        self._compiler = Compiler(lambda: tokenizer, vocab_size=vocab_size)
        self._thread = ThreadPoolExecutor(1, "grammars")
        """one: large grammars wait for each other, and nobody else for them"""

    async def grammar(self, body: Common) -> str:
        """The answer's grammar; empty where it is free. Raises Problem."""
        if body.wanted is None:
            return ""
        param = "response_format" if body.response_format else "structured_outputs"
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._checked, body)
        except (LendKVError, ValueError, RecursionError) as error:
            raise Problem(400, f"{param} cannot be kept: {error}", param=param) from error

    def _checked(self, body: Common) -> str:
        grammar = grammar_of(body.wanted)
        if len(grammar) > MAX_GRAMMAR:
            raise ValueError(f"it makes {len(grammar)} characters; at most {MAX_GRAMMAR} can be")
        if grammar:
            self._compiler.matcher(grammar)
        return grammar
