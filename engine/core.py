"""The shared nouns: shapes, layouts, requests and what one step runs. No torch, no I/O.

Shape letters, the same in the whole project: T query tokens packed over sequences, H query heads,
K KV heads, D head dimension, L layers, P blocks in a pool, C tokens in a block, R node rows (see
``attention/tree.py``).
"""

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]
TokenIds = Annotated[tuple[TokenId, ...], Meta(max_length=1 << 24)]
"""bounds hold where they are decoded: a message may be garbage"""
MAX_SEED = 1 << 48
"""other seeds are taken modulo it"""
MAX_GRAMMAR = 1 << 17
"""characters: one of so many takes about a second to compile"""

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SCALED_BYTES = {"int8": 1, "fp8": 1}
"""8-bit keys and values: integers, or floats of 4 bits of exponent and 3 of mantissa (e4m3). Each
token has a float32 scale for each KV head's key and one for its value"""
KV_BYTES = ITEM_BYTES | SCALED_BYTES
"""of the dtypes that keys and values may have"""
SCALE_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """What the engine must know of a model without loading it."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockLayout:
    """Bytes of one rBlock: ``[L, K]`` heads, each its keys ``[C, D]`` and then its values.

    Behind the values of 8-bit dtypes lie their scales, float32 ``[2, C]``: of keys, of values.
    Block-major and contiguous, so that a move is one copy; keys and values are plain rows.
    """

    layers: int
    kv_heads: int
    head_dim: int
    tokens: int
    dtype: str
    """of keys and values, one of ``KV_BYTES``"""
    queries: str = ""
    """dtype of queries, where it is not that of the keys"""
    quantization: str = "none"
    """of the weights that the keys come from"""
    first_kv_head: int = 0
    """where this describes some heads of a block: their first, and how many the block has"""
    whole_kv_heads: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        return (self.layers, self.kv_heads, 2, self.tokens, self.head_dim)

    @property
    def query_dtype(self) -> str:
        return self.queries or self.dtype

    @property
    def is_scaled(self) -> bool:
        """Whether keys and values are 8-bit with scales."""
        return self.dtype in SCALED_BYTES

    @property
    def values_offset(self) -> int:
        """Bytes from a head's first key to its first value."""
        return self.tokens * self.head_dim * KV_BYTES[self.dtype]

    @property
    def scales_offset(self) -> int:
        """Bytes from a head's first key to its first scale, where it has scales."""
        return -(-2 * self.values_offset // SCALE_BYTES) * SCALE_BYTES

    @property
    def head_bytes(self) -> int:
        """Of one KV head in one layer."""
        if self.is_scaled:
            return self.scales_offset + 2 * self.tokens * SCALE_BYTES
        return 2 * self.values_offset

    @property
    def layer_bytes(self) -> int:
        return (self.whole_kv_heads or self.kv_heads) * self.head_bytes

    @property
    def offset_bytes(self) -> int:
        """Where the first head begins in its layer: to be added to a block's address."""
        return self.first_kv_head * self.head_bytes

    @property
    def block_bytes(self) -> int:
        return self.layers * self.layer_bytes

    @property
    def fingerprint(self) -> str:
        """Loans are possible only between pools of the same fingerprint."""
        text = f"rows/{self.shape}/{self.dtype}/{self.quantization}/{self.query_dtype}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.tokens)

    def part(self, kv_heads: range) -> "BlockLayout":
        """The same blocks, of which only these consecutive KV heads are read and written."""
        return replace(
            self,
            kv_heads=len(kv_heads),
            first_kv_head=kv_heads.start,
            whole_kv_heads=self.kv_heads,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Temperature 0 is greedy; ties go to the lowest token id."""

    max_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] = 64
    """of the whole answer, those of earlier attempts among them"""
    min_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    """so many come before anything that would stop the answer"""
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """tokens less probable than so many times the likeliest are out"""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    """both for tokens of the answer; repetition also for those of the prompt"""
    repetition_penalty: Annotated[float, Meta(gt=0)] = 1.0
    logit_bias: tuple[tuple[TokenId, float], ...] = ()
    allowed_token_ids: TokenIds = ()
    """empty: all are"""
    bad_words: tuple[TokenIds, ...] = ()
    """sequences of tokens that must not come"""
    stop_token_ids: TokenIds = ()
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] = 0
    ignore_eos: bool = False
    logprobs: Annotated[int, Meta(ge=0, le=1 << 10)] | None = None
    """a Score for each token of the answer, with so many of the likeliest"""
    prompt_logprobs: Annotated[int, Meta(ge=0, le=1 << 10)] | None = None
    """the same for those of the prompt: all its rows are computed, whatever is cached"""
    grammar: Annotated[str, Meta(max_length=MAX_GRAMMAR)] = ""
    """of llguidance, which the answer must match (model/grammar.py); empty: any answer will do"""


class Score(NamedTuple):
    """How likely the model found a token, before anything was asked to change that."""

    logprob: float
    """natural logarithm"""
    rank: int
    """1 for the likeliest"""
    top: tuple[tuple[TokenId, float], ...] = ()
    """the likeliest tokens and their logprobs; the first of ties is the lowest id"""


class Scores(NamedTuple):
    """What a step found out for those who asked, by index of the span."""

    answer: dict[int, Score]
    """of sampled tokens"""
    prompt: dict[int, tuple[Score, ...]]
    """of tokens of ``Plan.scored``"""


NO_SCORES = Scores({}, {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a client sent, and how far others have got with it."""

    request_id: Annotated[str, Meta(max_length=4096)]
    prompt_ids: TokenIds
    answer_ids: TokenIds = ()
    """the answer's first tokens, from an earlier attempt: it goes on behind them"""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    age_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """how long ago it was accepted, when it came here: it may have run elsewhere before"""
    stays: bool = False
    """its frontend knows no other instance: it is handed over only when this one leaves"""
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """lower numbers are served first, and are the last to give way"""
    tenant: Annotated[str, Meta(max_length=4096)] = ""
    """for whom it is; those who wait are served in turn"""
    cache_salt: Annotated[str, Meta(max_length=4096)] = ""
    """its keys are used by requests of the same salt only"""
    max_borrowed: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    """blocks of others that its tenant's requests may have at one instance; None: any number"""

    @property
    def largest_token(self) -> TokenId:
        """Of all that a model looks up for it; 0 where there is none."""
        biased = (token for token, _ in self.sampling.logit_bias)
        ids = (self.prompt_ids, self.answer_ids, self.sampling.allowed_token_ids, biased)
        return max(chain(*ids, *self.sampling.bad_words), default=0)


Seniority = tuple[float, float]
"""a request's priority and when it came: smaller for who comes first, and gives way last"""


class BlockRef(NamedTuple):
    """Where one rBlock of a sequence lies: the paper's instance id and physical id, and its loan.

    ``loan`` is 0 for a block of the owner's own pool; then ``slot`` is 0 as well.
    """

    instance: int
    block: int
    """physical id in the holder's pool"""
    loan: int = 0
    slot: int = 0
    """index of the block within its loan"""
    generation: int = 0
    """the holder's generation of the block when it was granted; for mapped reads"""


class Span(Struct, frozen=True, gc=False):
    """Consecutive query tokens of one sequence in a step.

    Rows ``[row_start, row_start + num_rows)`` of the packed step are positions
    ``[first_position, first_position + num_rows)``; ``table[i]`` holds the keys of positions
    ``[i * C, (i + 1) * C)`` and covers all positions up to the last query's own.
    """

    sequence: int
    row_start: int
    num_rows: int
    first_position: int
    table: tuple[BlockRef, ...]
    table_version: int
    """grows whenever an entry of ``table`` moves"""


class Scored(NamedTuple):
    """Prompt tokens whose Score is asked for; each stands behind one of consecutive rows."""

    span: int
    row_start: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step runs: packed rows, and where each sequence's keys live."""

    step: int
    token_ids: tuple[int, ...]
    spans: tuple[Span, ...]
    sampled: tuple[int, ...] = ()
    """indexes of the spans whose last row gives the sequence's next token"""
    scored: tuple[Scored, ...] = ()

    @property
    def num_rows(self) -> int:
        return len(self.token_ids)


class Distribution:
    """How many values fell into each class, and their sum; they only grow."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds``: the largest value of each class but the last, ascending."""
        self.bounds = tuple(map(float, bounds))
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times
