"""Frontends and steps, over control sockets: requests and their tokens."""

from engine.core import Request, Score
from engine.protocol.base import Blocks, Count, Decoder, Goodbye, Index, Message, Text
from engine.protocol.life import Explain, Explained, Life


class Submit(Message, frozen=True):
    """Run a request. One that is sent again has its age and the tokens that came."""

    request: Request


class Tokens(Message, frozen=True):
    """New tokens of a request, the first of them number ``index`` of the whole answer."""

    request_id: Text
    index: Index
    token_ids: list[Index]
    finish_reason: Text = ""
    """empty while running; then stop or length"""
    scores: list[Score] = []
    """of each token, if the request wants logprobs"""
    num_reused: Count = 0
    """with the first token: tokens whose keys were found, not computed"""


class PromptScores(Message, frozen=True):
    """Of prompt tokens ``index + 1`` and following: the first one has none."""

    request_id: Text
    index: Index
    scores: list[Score]


class Progress(Message, frozen=True):
    """Prompt tokens prefilled so far."""

    request_id: Text
    num_done: Count
    num_total: Count


class Failed(Message, frozen=True):
    request_id: Text
    reason: Text
    code: Text = "too_large"
    """too_large: it can never run here"""


class HandedOver(Message, frozen=True):
    """The step leaves, or has no memory: it gives this request up. Sealed blocks stay cached where
    that costs nobody memory.

    The frontend sends it again, behind the tokens that came, to another instance.
    """

    request_id: Text
    life: Life = Life()


class Abort(Message, frozen=True):
    request_id: Text


class Report(Message, frozen=True):
    """Where a finished request's context lay and what it cost. Sent after its last Tokens."""

    request_id: Text
    holders: Blocks
    """the instance that held each rBlock of the context, in order"""
    query_bytes: Count
    partial_bytes: Count
    moved_bytes: Count
    kv_bytes_avoided: Count
    steps_by_way: dict[str, int]
    recomputed_tokens: Count
    life: Life = Life()


TO_STEP = Decoder(Submit, Abort, Explain, Goodbye)
FROM_STEP = Decoder(Tokens, PromptScores, Progress, Failed, HandedOver, Report, Explained)
