"""Loads: what a step tells the planner of itself (PAPER 2.3: request placement entries). No I/O."""

from collections import Counter, deque
from collections.abc import Mapping
from collections.abc import Sequence as Many

from engine.core import Distribution, Plan, Span
from engine.protocol import Histogram, Load, Origin, RequestLoad, Share, StepSample
from engine.scheduler.debts import Debts
from engine.scheduler.holdings import Holdings
from engine.scheduler.sequence import NOWHERE, Sequence, State

MAX_SAMPLES = 64
SMOOTHING = 0.1
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
STEP_BOUNDS_S = tuple(scale * 10**power for power in range(-3, 2) for scale in (1.0, 2.5, 5.0))


class Loads:
    """Timed decode steps since the last report, what memory was found how, and the report."""

    def __init__(self, instance: int, epoch: int) -> None:
        self._instance = instance
        self._epoch = epoch
        self._samples: deque[StepSample] = deque(maxlen=MAX_SAMPLES)
        self._counted: tuple[Plan | None, int, int, int] = (None, 0, 0, 0)
        """the plan that ran last, its rows if it only decodes, and its keys at home and at others:
        a stride runs it again"""
        self._lent: dict[int, tuple[int, int]] = {}
        """sequence -> the version of its table, and how many of its leaves are lent"""
        self._held: dict[int, tuple[tuple[int, int], list[Share]]] = {}
        """sequence -> the version of its table and its length, and who holds how much of it"""
        self._origins: dict[int, Origin] = {}
        """of sequences that were there at the last report"""
        self.step_s = 0.0
        """seconds of a decode step, smoothed"""
        self._step_tokens = Distribution(STEP_TOKENS)
        self._step_s = Distribution(STEP_BOUNDS_S)
        self._num_steps = 0
        self._began: float | None = None
        """the first report"""
        self.is_leaving = False
        self.relief: Counter[str] = Counter()
        """loans, host_blocks, handovers, preemptions: in the order in which they are tried; a
        preemption is a sequence that stops, or gives up a block, or all that it has"""
        self.reuse: Counter[str] = Counter()
        """tokens: queries, those of the sequences that began; hits_own and hits_other, those whose
        keys were found here and at other instances"""

    def looked_up(self, sequence: Sequence, tokens: int) -> None:
        """A sequence begins to run, with what was found for it; ``tokens`` to a block."""
        if not sequence.chain:
            return
        found = sequence.table if sequence.is_reused else []
        here = [ref for ref in found if ref is not NOWHERE]
        num_lent = sum(1 for ref in here if ref.loan)
        sequence.num_reused = tokens * len(here)
        self.reuse["queries"] += len(sequence.token_ids)
        self.reuse["hits_own"] += tokens * (len(here) - num_lent)
        self.reuse["hits_other"] += tokens * num_lent

    def ran(self, num_rows: int, num_steps: int = 1) -> None:
        """Steps of so many query tokens each were run."""
        self._step_tokens.add(num_rows, num_steps)
        self._num_steps += num_steps

    def timed(self, plan: Plan, lasted: Many[float], tokens: int) -> None:
        """Steps of this plan took so long; ``tokens`` to a block. Only decodes are samples."""
        if plan is not self._counted[0]:
            self._counted = (plan, *self._count(plan, tokens))
        _, num_rows, local, remote = self._counted
        for seconds in lasted:
            self._step_s.add(seconds)
        if not num_rows:
            return
        self._samples.extend([StepSample(num_rows, local, remote, one) for one in lasted])
        step_s = self.step_s
        for seconds in lasted:
            step_s += (seconds - step_s) * (SMOOTHING if step_s else 1.0)
        self.step_s = step_s

    def report(
        self,
        all_sequences: Many[Sequence],
        waiting_blocks: int,
        holdings: Holdings,
        debts: Debts,
        counts: Mapping[str, int],
        now: float,
    ) -> Load:
        self._began = now if self._began is None else self._began
        samples, self._samples = list(self._samples), deque(maxlen=MAX_SAMPLES)
        there = self._lent.keys() & {one.number for one in all_sequences}
        self._lent = {number: self._lent[number] for number in there}
        self._held = {one.number: self._shares(one) for one in all_sequences}
        self._origins = {one.number: self._origin(one, now) for one in all_sequences}
        requests = {one.number: self._request(one, holdings) for one in all_sequences}
        running = [one.number for one in all_sequences if one.state is State.RUNNING]
        local = {number: requests[number].num_local + 1 for number in running}
        return Load(
            self._instance,
            self._epoch,
            len(running),
            len(all_sequences) - len(running),
            waiting_blocks,
            requests,
            self.step_s,
            int(self.is_leaving),
            samples,
            dict(self.relief),
            _borrowed(all_sequences, debts),
            dict(self.reuse),
            dict(counts),
            {"step_tokens": told(self._step_tokens), "step_s": told(self._step_s)},
            self._origins,
            sum(local.values()),
            sum(max(0, requests[number].num_blocks - own) for number, own in local.items()),
            self._num_steps,
            now - self._began,
        )

    def _origin(self, sequence: Sequence, now: float) -> Origin:
        known = self._origins.get(sequence.number)
        if known is not None:
            return known
        arrived = now if sequence.arrived is None else sequence.arrived
        name, since = sequence.request.request_id, arrived - (self._began or 0.0)
        return Origin(name, sequence.num_prompt, since)

    def _request(self, sequence: Sequence, holdings: Holdings) -> RequestLoad:
        state, since, num_local = "waiting", 0, 0
        if sequence.state is State.RUNNING:
            state, num_local = "prefill", len(holdings.own_sealed(sequence))
            if not sequence.is_prefill:
                state, since = "decode", self._num_steps
        holes = sum([end - first for first, end in sequence.holes])
        return RequestLoad(
            state,
            sequence.num_output - since,
            sequence.num_computed - holes - since,
            len(sequence.table),
            num_local,
            self._held[sequence.number][1],
        )

    def _shares(self, sequence: Sequence) -> tuple[tuple[int, int], list[Share]]:
        """Its blocks, by instance; counted again only when one has come or moved."""
        table, at = sequence.table, (sequence.table_version, len(sequence.table))
        known = self._held.get(sequence.number)
        if known is not None and known[0] == at:
            return known
        if table and not (sequence.loans or sequence.holes):  # all of them are at home
            return at, [Share(table[0].instance, len(table))]
        blocks = Counter(sequence.holders())
        return at, [Share(instance, blocks[instance]) for instance in sorted(blocks)]

    def _count(self, plan: Plan, tokens: int) -> tuple[int, int, int]:
        """Its rows, and the keys that they see at home and at others; none where prefills run."""
        if plan.num_rows > len(plan.spans):
            return 0, 0, 0
        remote = tokens * sum(map(self._num_lent, plan.spans))
        keys = sum([span.first_position + 1 for span in plan.spans])
        return plan.num_rows, max(0, keys - remote), remote

    def _num_lent(self, span: Span) -> int:
        """Leaves of its table that others hold; counted again only when one has moved."""
        version, num_lent = self._lent.get(span.sequence, (-1, 0))
        if version != span.table_version:
            num_lent = sum(ref.loan > 0 for ref in span.table)
            self._lent[span.sequence] = (span.table_version, num_lent)
        return num_lent


def told(distribution: Distribution) -> Histogram:
    """As it stands, for a message."""
    return Histogram(list(distribution.bounds), list(distribution.counts), distribution.total)


def _borrowed(sequences: Many[Sequence], debts: Debts) -> dict[int, int]:
    """Lent slots that are not given back, by creditor."""
    owed: Counter[int] = Counter()
    for sequence in sequences:
        for (instance, loan), num_slots in sequence.loans.items():
            if (instance, loan) in debts and not debts.is_pin((instance, loan)):
                owed[instance] += num_slots
    return dict(owed)
