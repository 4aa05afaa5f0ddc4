"""Stride: steps in a row that change nothing but tokens and times, run as one.

Most steps of a busy instance only decode: no block is filled or begun, nobody ends, nothing is
awaited. Asking the scheduler before each of them would give the same plan with one token more.
"""

from engine.core import Plan
from engine.scheduler.scheduler import Scheduler


def all_have_begun(scheduler: Scheduler) -> bool:
    """Each has told a token, and has nothing put aside that its next one would give back."""
    for one in scheduler.running:
        if len(one.spare) > 1 or one.num_output <= len(one.request.answer_ids):
            return False
    return True


def num_quiet_steps(plan: Plan, scheduler: Scheduler, block_tokens: int) -> int:
    """How many steps from now on do nothing new: this one's and those behind it, or if it is
    committed those behind it.
    """
    running = scheduler.running
    if len(plan.spans) != len(running) or plan.num_rows != len(running) or scheduler.batch.short:
        return 0
    if scheduler.awaits_answer or scheduler.has_effects or scheduler.admission.placing:
        return 0
    quiet = block_tokens
    for sequence in running:
        if sequence.is_prefill or sequence.returning or sequence.targets:
            return 0
        num_computed = sequence.num_computed
        if len(sequence.table) * block_tokens <= num_computed:
            return 0
        in_leaf = block_tokens - 1 - num_computed % block_tokens
        left = sequence.request.sampling.max_tokens - sequence.num_output - 1
        quiet = min(quiet, left, in_leaf)
        if quiet <= 0:
            return 0
    return quiet


def quiet_until(scheduler: Scheduler, max_num_seqs: int) -> float:
    """From then on somebody may be admitted, or a lease must be renewed."""
    until = scheduler.debts.next_renewal
    waiting = scheduler.admission.waiting
    if waiting and len(scheduler.running) < max_num_seqs:
        until = min(until, min(one.not_before for one in waiting))
    return until


def advance(scheduler: Scheduler, plan: Plan, num_steps: int) -> list[tuple[str, int]]:
    """Each sequence has so many tokens more; returns each one's request, and the first's index."""
    told = []
    for sequence in scheduler.running:
        told.append((sequence.request.request_id, sequence.num_output))
        sequence.token_ids.extend([TOKEN] * num_steps)
        sequence.num_computed += num_steps
        scheduler.admission.turns.answered(sequence.request.tenant, num_steps)
    scheduler.loads.ran(plan.num_rows, num_steps)
    return told


TOKEN = 1
"""what the model says, always"""
