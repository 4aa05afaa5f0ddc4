"""Constraints: what an answer must be like, checked before its request is accepted."""

import asyncio
from collections import OrderedDict

from engine.core import MAX_GRAMMAR
from engine.errors import LendKVError
from engine.model.grammar import Compiler, compiling_thread
from engine.model.tokenizer import Tokenizer
from engine.server.problems import Problem
from engine.server.schemas import ChatBody, CompletionBody
from engine.server.structured import grammar_of, schema_of
from engine.server.tools.calls_grammar import CallsGrammar
from engine.server.tools.formats import ToolFormat
from engine.server.tools.tool import Chosen
from engine.server.trial import refusal

COMPILE_S = 5.0
"""processor time that compiling a grammar may take"""
NUM_KNOWN = 256


class Constraints:
    """Grammars for the answers of one model."""

    def __init__(
        self, tokenizer: Tokenizer, *, vocab_size: int, tool_format: ToolFormat | None
    ) -> None:
        """``tool_format`` is None where tools are refused."""
        self._compiler = Compiler(lambda: tokenizer, vocab_size=vocab_size)
        self._compiler.prepare_early()
        self._token_id = tokenizer.backend.token_to_id
        self._tool_format = tool_format
        self._known: OrderedDict[str, None] = OrderedDict()
        """grammars that can be compiled"""
        self._thread = compiling_thread()
        """one: large grammars wait for each other, and nobody else for them"""

    async def grammar(self, body: ChatBody | CompletionBody) -> str:
        """The answer's grammar; empty where it is free. Raises Problem."""
        param = "response_format" if body.response_format else "structured_outputs"
        if isinstance(body, ChatBody) and body.usable_tools:
            param = "tools"
        elif body.wanted is None:
            return ""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._checked, body)
        except (LendKVError, ValueError, RecursionError) as error:
            raise Problem(400, f"{param} cannot be kept: {error}", param=param) from error

    def _checked(self, body: ChatBody | CompletionBody) -> str:
        if isinstance(body, ChatBody) and body.usable_tools:
            grammar = self._of_tools(body)
        else:
            grammar = grammar_of(body.wanted)
        if len(grammar) > MAX_GRAMMAR:
            raise ValueError(f"it makes {len(grammar)} characters; at most {MAX_GRAMMAR} can be")
        if grammar and grammar not in self._known:
            self._compiler.prepare()
            reason = refusal(lambda: self._compiler.matcher(grammar).allowed(), COMPILE_S)
            if reason:
                raise ValueError(reason)
            self._known[grammar] = None
            if len(self._known) > NUM_KNOWN:
                self._known.popitem(last=False)
        return grammar

    def _of_tools(self, body: ChatBody) -> str:
        if self._tool_format is None:
            raise ValueError(
                "this model's chat template shows no format of tool calls that is known; if the "
                "model writes hermes, llama3_json or mistral, set serve.tool_parser to that"
            )
        grammar = CallsGrammar(
            self._tool_format,
            body.usable_tools,
            token_id=self._token_id,
            parallel=body.parallel_tool_calls and not isinstance(body.tool_choice, Chosen),
        )
        if body.must_call:
            return grammar.only()
        schema = schema_of(body.wanted)
        if schema is not None:
            return grammar.or_json(schema)
        if grammar_of(body.wanted):
            raise ValueError(
                "with tools that need not be called, structured_outputs can only ask for JSON"
            )
        if any(tool.function.strict for tool in body.usable_tools) or not grammar.parallel:
            return grammar.within_text()
        return ""
