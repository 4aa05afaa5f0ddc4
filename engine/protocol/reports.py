"""What pools and steps tell the planner of themselves: whole, or what has changed.

A ``whole`` report says everything. Any other one repeats single numbers and names, but of its dicts
it has only the entries that are new or changed since the report before it (``number`` - 1), and
``gone`` names those that are no more; scheduler/reports.py puts them together.
"""

from typing import Annotated

from msgspec import Meta, Struct

from engine.protocol.base import Count, Index, Message, Seconds, Sketch, Text
from engine.protocol.counts import Counts, Histograms, Shares

Offset = Annotated[int, Meta(ge=-(1 << 48), le=1 << 48)]
Since = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""seconds since a process began; below 0 for what is older"""
Amounts = Annotated[dict[Index, Count], Meta(max_length=1 << 16)]
"""blocks, by instance"""
Gone = Annotated[dict[Text, Annotated[list[Count], Meta(max_length=1 << 16)]], Meta(max_length=8)]
"""keys that are no more, by the dict they were in"""


class Heartbeat(Message, frozen=True):
    """A pool's state, sent often. Answer: Resend, when it does not follow what is known."""

    instance: Index
    epoch: Count
    address: Text
    host: Text
    num_blocks: Count
    num_free: Count
    num_lendable: Count
    num_lent: Count
    num_lend_cap: Count
    """most blocks it would ever lend"""
    num_cached: Count = 0
    """blocks kept for their content, that others may pin"""
    lent: Amounts = {}
    """who owes how many blocks"""
    num_used: Count = 0
    """drawn by the own step"""
    sketch: Sketch | None = b""
    """None: as it was"""
    num_evicted: Count = 0
    """cached blocks that were reclaimed since the pool began"""
    counts: Counts = {}
    num_empty: Count = 0
    """free blocks without content"""
    lends: bool = True
    """unless an operator said otherwise, or it leaves"""
    number: Count = 0
    """of the report, from 1 on; 0: it belongs to no series"""
    whole: bool = True
    gone: Gone = {}


class StepSample(Struct, frozen=True, array_like=True, gc=False):
    """One timed step."""

    num_rows: Count
    local_keys: Count
    """keys attended to in the own pool, summed over rows"""
    remote_keys: Count
    seconds: Seconds


Relief = Annotated[dict[Text, Count], Meta(max_length=16)]
"""how often memory was found by each means since the step began (scheduler/loads.py)"""


Reuse = Annotated[dict[Text, Count], Meta(max_length=16)]
"""tokens whose keys were looked for and found since the step began (scheduler/loads.py)"""


class Origin(Struct, frozen=True, array_like=True, gc=False):
    """What does not change of a request while it is at a step."""

    request_id: Text
    """as it was submitted: a gateway's attempt"""
    num_prompt: Count
    arrived_s: Since


class RequestLoad(Struct, frozen=True, array_like=True, gc=False):
    """A request at a step, running or waiting, as it stands.

    While it decodes, numbers of tokens are told less the step's ``num_steps``: with one token a
    step they do not change.
    """

    state: Text
    """waiting, prefill or decode"""
    num_output: Offset
    num_computed: Offset
    """tokens whose keys are in some block"""
    num_blocks: Count = 0
    """leaves of its table"""
    num_local: Count = 0
    """sealed blocks in the own pool, which could be lent"""
    holders: Shares = []
    """where its blocks lie"""


Requests = Annotated[dict[Count, RequestLoad], Meta(max_length=1 << 16)]
Origins = Annotated[dict[Count, Origin], Meta(max_length=1 << 16)]


class Load(Message, frozen=True):
    """A step's state, sent often (PAPER 2.3: the request placement entries).

    Answer: Resend, when it does not follow what is known. The planner may send Move and Settle to
    the step that sent it.
    """

    instance: Index
    epoch: Count
    num_running: Count
    num_waiting: Count
    waiting_blocks: Count
    """blocks that the waiting sequences need"""
    requests: Requests = {}
    """by sequence"""
    step_s: Seconds = 0.0
    """mean seconds of a decode step lately"""
    num_draining: Index = 0
    """1 while the instance leaves: nothing is planned onto it"""
    samples: Annotated[list[StepSample], Meta(max_length=256)] = []
    """timed decode steps since the last report; the performance model learns from them"""
    relief: Relief = {}
    borrowed: Amounts = {}
    """blocks that its sequences have of others, by creditor: the other side of Heartbeat.lent"""
    reuse: Reuse = {}
    counts: Counts = {}
    histograms: Histograms = {}
    """bounds that did not change are left out"""
    origins: Origins = {}
    """by sequence"""
    home_blocks: Count = 0
    """of running sequences: sealed ones in the own pool, and one more for each, its tail"""
    away_blocks: Count = 0
    """of running sequences, at others"""
    num_steps: Count = 0
    """since the process began"""
    now_s: Since = 0.0
    """when this was said"""
    number: Count = 0
    """of the report, from 1 on; 0: it belongs to no series"""
    whole: bool = True
    gone: Gone = {}


class Resend(Message, frozen=True):
    """Planner to a pool or a step: say all of it again, with the next report."""
