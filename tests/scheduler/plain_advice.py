"""The placements' advice in its plainest form: every candidate is looked at, at any cost."""

from collections import deque
from dataclasses import replace

from msgspec import structs

from engine.protocol import Move, Settle
from engine.scheduler.balanced import BalancedPlacement
from engine.scheduler.base import Advice
from engine.scheduler.dgfm import Settlement
from engine.scheduler.greedy import Candidate, GreedyPlacement


class PlainGreedy(GreedyPlacement):
    """Algorithm 1 without a thought for time."""

    def advise(self, view, cost):
        creditors = {one.instance: one for one in view.instances.values() if self._may_lend(one)}
        advice = []
        for debtor in sorted(view.instances.values(), key=_batch):
            best = self._plain_best(view, debtor, creditors, cost)
            if best is None:
                continue
            to = best.creditor.creditor
            move = Move(best.sequence, best.num_blocks, to)
            advice.append(Advice(debtor.instance, move))
            creditors[to.instance] = _lent(best.creditor, best.num_blocks)
        return advice

    def _plain_best(self, view, debtor, creditors, cost):
        load = debtor.load
        if load is None or debtor.is_draining or not load.num_waiting:
            return None
        if load.num_running >= self._limits.max_debtor_batch:
            return None
        movable = [one for one, of in load.requests.items() if of.num_local > 1]
        if not movable:
            return None
        longest = max(movable, key=lambda one: (load.requests[one].num_blocks, -one))
        found = []
        for creditor in creditors.values():
            most = min(load.requests[longest].num_local - 1, creditor.creditor.num_lendable)
            counts = {1 << power for power in range(20) if 1 << power < most} | {most}
            if creditor.instance != debtor.instance:
                found += [Candidate(debtor, creditor, longest, n) for n in counts if n > 0]
        key = {id(one): self.gain(view, one, cost) for one in found}
        best = max(
            found,
            key=lambda one: (key[id(one)], -one.num_blocks, -one.creditor.instance),
            default=None,
        )
        return best if best is not None and key[id(best)] > 0 else None


class PlainBalanced(BalancedPlacement):
    def advise(self, view, cost):
        advice = PlainGreedy.advise(self, view, cost)
        busy = {one.instance for one in advice}
        for one in view.instances.values():
            if one.instance not in busy:
                advice += self._plain_home(view, one)
        return advice

    _plain_best = PlainGreedy._plain_best

    def _plain_home(self, view, one):
        spare = one.num_free - int(self._prices.home_free_share * one.num_blocks)
        if one.load is None or one.load.num_waiting or spare <= 0:
            return []
        for creditor, lender in sorted(view.instances.items()):
            num_blocks = lender.owed.get(one.instance)
            last = view.advised.get((one.instance, creditor), -self._prices.residence_rounds)
            if num_blocks and view.round - last >= self._prices.residence_rounds:
                home = Settle(creditor, min(num_blocks, spare), self._prices.settle_s)
                return [Advice(one.instance, home)]
        return []


def plain_settlements(debts, min_swap, start):
    nodes = sorted({node for edge in debts for node in edge})
    turned = [nodes[(start + at) % len(nodes)] for at in range(len(nodes))] if nodes else []
    found, used = [], set()
    for node in turned:
        cycle = _plain_cycle(node, debts, used)
        if not cycle:
            continue
        num_blocks = min(debts[edge] for edge in Settlement(cycle, 0).edges)
        if num_blocks >= max(min_swap, 1):
            found.append(Settlement(cycle, num_blocks))
            used.update(cycle)
    return found


def _plain_cycle(start, debts, used):
    paths = deque([(start,)] if start not in used else [])
    seen = {start}
    while paths:
        path = paths.popleft()
        for debtor, creditor in sorted(debts):
            if debtor != path[-1] or not debts[debtor, creditor] or creditor in used:
                continue
            if creditor == start:
                return path
            if creditor not in seen:
                seen.add(creditor)
                paths.append((*path, creditor))
    return ()


def _batch(one):
    return (one.load.num_running if one.load else 0, one.instance)


def _lent(lender, num_blocks):
    to = lender.creditor
    left = structs.replace(to, num_lendable=to.num_lendable - num_blocks)
    return replace(lender, creditor=left, num_free=lender.num_free - num_blocks)
