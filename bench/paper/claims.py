"""Claims: what public notes say the paper published, and what the simulator says beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.paper import contexts, mix, setup, traces

Values = Mapping[str, Any]
Cases = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    what: str
    low: float
    high: float
    unit: str = "x"
    said: str = ""
    """what was published, where the range is ours: within a quarter of it"""
    ours: Callable[[Values], Cases]
    """by case; empty before it was run"""
    below: str = ""
    """what could explain a number below the published ones"""
    above: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    claim: Claim
    cases: Cases

    @property
    def num_inside(self) -> int:
        return sum(self.claim.low <= one <= self.claim.high for one in self.cases.values())

    @property
    def reasons(self) -> list[str]:
        """One sentence for each side on which a case lies outside."""
        found = []
        if any(one < self.claim.low for one in self.cases.values()):
            found.append(self.claim.below)
        if any(one > self.claim.high for one in self.cases.values()):
            found.append(self.claim.above)
        return found


def verdicts(values: Values) -> list[Verdict]:
    """Of the claims that were run."""
    found = [Verdict(claim, claim.ours(values)) for claim in CLAIMS]
    return [one for one in found if one.cases]


def _traces(setting: str, system: str, against: str, *, short: bool) -> Callable[[Values], Cases]:
    def ours(values: Values) -> Cases:
        found = traces.ratios(values, setting, system, against)
        names = setup.traces().short
        return {case: x for case, x in found.items() if (case.split("/")[1] in names) == short}

    return ours


def _datasets(values: Values) -> Cases:
    return mix.ratios(values, "ledger", "vllm-multi")


def _longest(against: str) -> Callable[[Values], Cases]:
    def ours(values: Values) -> Cases:
        found = {}
        for model in setup.MODELS:
            known = values.get(f"contexts/{model}/longest")
            if known:
                found[model] = known["lending"] / known[against]
        return found

    return ours


def _short_context(against: str) -> Callable[[Values], Cases]:
    return lambda values: contexts.ratio(values, contexts.LABELS[0], against)


def _split(values: Values) -> Cases:
    return dict(values.get("operators/split", {}).get("efficiency", {}))


def _operator(way: str, per: str) -> Callable[[Values], Cases]:
    def ours(values: Values) -> Cases:
        found = values.get("operators/attention", {}).get("ms", {})
        return {keys: ms[way] / ms[per] for keys, ms in found.items()}

    return ours


def _milliseconds(keys: str, way: str) -> Callable[[Values], Cases]:
    def ours(values: Values) -> Cases:
        found = values.get("operators/attention", {}).get("ms", {})
        return {keys: found[keys][way]} if keys in found else {}

    return ours


LITTLE_TO_GAIN = (
    "A pool holds 7 to 70 mean contexts of these traces and each request is sent where there is "
    "room, so little memory is stranded, and three quarters of a full pool's step are spent "
    "reading keys, so more sequences make it longer: a wider spread of lengths, or a router that "
    "knows nothing of memory, leaves more to gain."
)
WAITS = (
    "A context that wants many lenders is placed all at once or not at all, and waits while "
    "shorter ones take what becomes free; its steps wait for the fullest lender. vllm-single has "
    "one queue, its weights once, all memories' bandwidth for each step, and InfiniBand for its "
    "all-reduces."
)
COPIES = (
    "Over 32 ranks the 8 KV heads of the 70B model are stored four times, so vllm-single holds "
    "half of what eight instances hold, and reads it at a quarter of the rate."
)

CLAIMS = (
    Claim(
        what="`greedy` against vllm-multi, traces 0-2, decodes",
        low=1.35,
        high=1.73,
        ours=_traces("decode", "greedy", "vllm-multi", short=True),
        below=LITTLE_TO_GAIN,
    ),
    Claim(
        what="`greedy` against vllm-multi, traces 0-2, prompts computed",
        low=1.35,
        high=1.73,
        ours=_traces("whole", "greedy", "vllm-multi", short=True),
        below="The same, and prompts take half of the time, with or without lending.",
    ),
    Claim(
        what="`greedy` against vllm-single, traces 3-8, decodes",
        low=1.4,
        high=3.4,
        ours=_traces("decode", "greedy", "vllm-single", short=False),
        below=WAITS,
        above=COPIES,
    ),
    Claim(
        what="`greedy` against vllm-single, traces 3-8, prompts computed",
        low=1.4,
        high=3.4,
        ours=_traces("whole", "greedy", "vllm-single", short=False),
        below="A long prompt's attention is most of the work: vllm-single splits it over all GPUs, "
        "lending over those few that hold its keys.",
        above="Short prompts are computed by 32 instances without a word between them, by "
        "vllm-single with two all-reduces in each layer.",
    ),
    Claim(
        what="longest context, lending against vllm-multi",
        low=2,
        high=19,
        ours=_longest("vllm-multi"),
        above="32 instances lend nine tenths of their pools whatever the length is; the paper's "
        "longest trace, 2000K, is 18.4 pools of the 7B model: its traces may have ended first.",
    ),
    Claim(
        what="longest context, lending against vllm-single",
        said="similar",
        low=0.8,
        high=1.25,
        ours=_longest("vllm-single"),
        below="Each instance has all weights and working room, and lends nine tenths of its pool.",
        above=COPIES,
    ),
    Claim(
        what="tokens/s at 1K contexts, `greedy` against vllm-single",
        low=1.4,
        high=5.3,
        ours=_short_context("vllm-single"),
        below="At full memory both read all keys at the same rate, and all-reduces over InfiniBand "
        "are cheap for large batches.",
        above=COPIES,
    ),
    Claim(
        what="tokens/s at 1K contexts, `greedy` against vllm-multi",
        said="comparable",
        low=0.8,
        high=1.25,
        ours=_short_context("vllm-multi"),
        below="What all instances hold at once is a little too much for some of them, which lend.",
        above="Sequences that find no room wait less when others lend some.",
    ),
    Claim(
        what="`ledger` against vllm-multi, 18 data sets, decodes",
        low=1.03,
        high=2.4,
        ours=_datasets,
        below=WAITS,
        above="vllm-multi's rate is without what it refuses, and with the wait behind its longest.",
    ),
    Claim(
        what="a 7B model's share of its efficiency over eight GPUs, batches of 1 to 256",
        said="about 1/3",
        low=0.8 / 3,
        high=1.25 / 3,
        unit="",
        ours=_split,
        below="Small batches are latency: two all-reduces a layer at 10 µs a hop, an assumption.",
        above="Large batches are bounded by the matrix rate, which eight GPUs have eight times.",
    ),
    Claim(
        what="attention of 4K to 256K keys on four GPUs, against RingAttention",
        low=7.7,
        high=19.8,
        ours=_operator("move", "ask"),
        below="Few keys are asked for as fast as they are moved.",
        above="Moving runs at the link's rate and asking at the memory's: with many keys the ratio "
        "is that of the two rates, and the paper's own times at 131,072 keys give 20.8.",
    ),
    Claim(
        what="the same against splitting heads",
        low=1.01,
        high=1.25,
        ours=_operator("heads", "ask"),
        below="A query's way there and its answer's way back are two hops of 10 µs, the "
        "all-reduce of 10 KB one and a half, in the model: the paper's gain must come from kernels "
        "or from a slower all-reduce.",
        above="An all-reduce is slower than a question.",
    ),
    *(
        Claim(
            what=f"one layer's attention, {int(keys):,} keys, {way_said}",
            said=f"{published} ms",
            low=published / 1.25,
            high=published * 1.25,
            unit=" ms",
            ours=_milliseconds(keys, way),
            below="So few keys are all latency, and the profile's 10 µs a hop are shorter than "
            "what the paper's transport took.",
            above="The profile's bandwidths are lower than what the paper reached.",
        )
        for keys, way, way_said, published in (
            ("8192", "ask", "query travels", 0.075),
            ("8192", "move", "keys travel", 0.581),
            ("32768", "ask", "query travels", 0.12),
            ("32768", "move", "keys travel", 1.98),
            ("131072", "ask", "query travels", 0.36),
            ("131072", "move", "keys travel", 7.48),
        )
    ),
)
