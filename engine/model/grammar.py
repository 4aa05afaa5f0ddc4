"""Grammars: which tokens may come next in an answer that must match one. Over llguidance.

A grammar travels as text (``SamplingParams.grammar``). Its Matcher is a function of that text and
of the answer's tokens, so it is made anew wherever a request is sent again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from engine.errors import GrammarError
from engine.heap import give_back_freed
from engine.model.token_names import TokenNames
from engine.model.tokenizer import Tokenizer

END = b"<|end of grammar|>"
"""stands for the end-of-sequence token of a model that has none"""
NUM_KEPT = 16
"""compiled grammars that are kept for requests to come"""
MAX_LEXER_STATES = 50_000
"""of one grammar; each takes 1 to 2 kB"""
PLAIN = '[^"\\\\\\x00-\\x1F\\x7F]+'
"""What may stand within JSON's strings: its tokens are masked together, which is as quick as with
all four such sets that the library proposes, and takes 8 MB less."""
STACK_BYTES = 1 << 29
"""address space, of which little is touched: compiling goes as deep as rules refer to rules"""


def compiling_thread() -> ThreadPoolExecutor:
    """Where to call ``Compiler.matcher``: elsewhere a long chain of rules would end the process."""
    executor = ThreadPoolExecutor(1, "grammars")
    before = threading.stack_size(STACK_BYTES)
    try:
        executor.submit(int)  # starts the thread
    finally:
        threading.stack_size(before)
    return executor


class Matcher:
    """How far one answer has got in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, stop_ids: Sequence[int]) -> None:
        """``stop_ids`` may not be chosen: end-of-sequence tokens that the request ignores."""
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._stop_ids = [token for token in stop_ids if token < vocab_size]

    def read(self, answer_ids: Sequence[int]) -> None:
        """The tokens that there are already; raises GrammarError when they do not match."""
        self._matcher.consume_tokens(list(answer_ids))
        self._check()

    def take(self, token: int) -> bool:
        """The answer's next token; True when nothing may follow it."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.bool_]:
        """Bools ``[V]``: tokens that may come next, the end of the sequence where it may end.

        Raises GrammarError when there is none, or when finding them is too much work.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed_V = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)
        allowed_V[self._stop_ids] = False
        if not allowed_V.any():
            raise GrammarError("no token of this model continues the answer as its grammar wants")
        return allowed_V

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(_one_sentence(self._matcher.get_error()))


class Compiler:
    """Makes matchers. Compiling takes long, and lets other threads run.

    ``prepare`` does not: it takes 0.2 s of a process for 50,000 tokens, and 0.6 s more where their
    tokenizer is not loaded yet. So it is to be called before others wait for that process.
    """

    def __init__(
        self,
        tokenizer: Callable[[], Tokenizer | None],
        *,
        vocab_size: int,
        eos_ids: Collection[int] = (),
    ) -> None:
        """``vocab_size`` is that of the logits."""
        self._load = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self) -> LLTokenizer:
        """The vocabulary as the library wants it; raises GrammarError when that cannot be."""
        if self._tokenizer is None:
            self._tokenizer = _prepared(self._load(), self._vocab_size, self._eos_ids)
        return self._tokenizer

    def prepare_early(self) -> None:
        """So that no request waits for it; a model that has no use for grammars is no error."""
        with suppress(GrammarError):
            self.prepare()
        give_back_freed()

    def matcher(self, grammar: str, *, ignore_eos: bool = False) -> Matcher:
        """At the beginning of an answer; raises GrammarError with the library's reason."""
        with self._lock:
            tokenizer = self.prepare()
            compiled = self._compiled.pop(grammar, None)
            if compiled is None:
                limits = LLParserLimits(verbose_errors=False, max_lexer_states=MAX_LEXER_STATES)
                compiled = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
                if compiled.is_error():
                    raise GrammarError(_one_sentence(compiled.get_error()))
            self._compiled[grammar] = compiled
            if len(self._compiled) > NUM_KEPT:
                self._compiled.popitem(last=False)
            stop_ids = self._eos_ids if ignore_eos else ()
            return Matcher(compiled.deep_copy(), self._vocab_size, stop_ids)


class _Vocabulary:
    """Names and types are those that ``TokenizerWrapper`` reads.

    From the bytes of the tokens the library is ready in a third of the time, and half of the
    memory, that its own copy of the tokenizer takes.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._backend = tokenizer.backend
        names = TokenNames(tokenizer.backend)
        self.special_token_ids = sorted(tokenizer.special_ids)
        highest = max([0, *self.special_token_ids])
        num_tokens = max(vocab_size, self._backend.get_vocab_size(), highest + 1)
        self.tokens = names.of_all(num_tokens)
        if not eos_ids:
            self.special_token_ids.append(num_tokens)
            self.tokens.append(END)
        self.eos_token_ids = list(eos_ids) or [num_tokens]
        self.eos_token_id = self.eos_token_ids[0]

    def __call__(self, text: bytes) -> list[int]:
        """What a model would write for text that leaves it no choice."""
        return list(self._backend.encode(text.decode(), add_special_tokens=False).ids)


def _prepared(tokenizer: Tokenizer | None, vocab_size: int, eos_ids: list[int]) -> LLTokenizer:
    if tokenizer is None:
        raise GrammarError("this model has no tokenizer.json, which constrained answers need")
    vocabulary = _Vocabulary(tokenizer, vocab_size, eos_ids)
    wrapper = TokenizerWrapper(vocabulary)
    try:
        prepared = LLTokenizer(wrapper, eos_token=vocabulary.eos_token_ids, slices=[PLAIN])
    except ValueError as error:
        raise GrammarError(
            f"this model's tokenizer cannot be used for constrained answers: {_one_sentence(error)}"
        ) from error
    wrapper.tokens = vocabulary.tokens = []  # it has copied them, and asks for texts' ids only
    return prepared


def _one_sentence(reason: object) -> str:
    """The library draws pictures below its reasons."""
    lines = [line.strip() for line in str(reason).splitlines()]
    said = [line for line in lines if line and not line.startswith("<") and "|" not in line]
    return "; ".join(said[:3])[:400]
