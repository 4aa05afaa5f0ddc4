"""Timeline: what befell one sequence, in order; bounded. No I/O, no clock."""

from engine.protocol import Life, Moment

MOST = 128
"""moments kept of one sequence; of a longer life the middle is left out"""
GO_ON = frozenset({"computed", "recomputed", "moved", "returned", "waits", "busy"})
"""the next of these is added to the last one, unless something else befell meanwhile"""


class Timeline:
    """The moments of one sequence."""

    def __init__(self) -> None:
        self._moments: list[Moment] = []
        self._num_left_out = 0

    def note(self, what: str, at_s: float, instance: int, amount: int) -> None:
        moments = self._moments
        for index in range(len(moments) - 1, -1, -1):
            last = moments[index]
            if what not in GO_ON or last.what not in GO_ON:
                break
            if (last.what, last.instance) == (what, instance):
                amount += last.amount
                times = last.times + 1
                moments[index] = Moment(what, last.at_s, at_s, instance, times, amount)
                return
        if len(moments) == MOST:
            del moments[MOST // 2]
            self._num_left_out += 1
        moments.append(Moment(what, at_s, at_s, instance, 1, amount))

    def life(self) -> Life:
        return Life(list(self._moments), self._num_left_out)
