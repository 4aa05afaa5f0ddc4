"""A cluster at twice the rate that it sustains, clients that leave in the middle, and what is left.

``python tests/soak/soak.py SECONDS`` prints the findings as JSON; status 1 if anything is wrong.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path += [str(HERE.parents[1]), str(HERE.parent), str(HERE.parent / "server")]

from served import Server, byte_tokenizer, make_chatting_checkpoint  # noqa: E402

from engine.chaos.processes import descendants, rank_of  # noqa: E402
from engine.load.arrivals import steady  # noqa: E402
from engine.load.client import Client  # noqa: E402
from engine.load.options import Options  # noqa: E402
from engine.load.outcome import Outcome  # noqa: E402
from engine.load.run import Clock, run  # noqa: E402
from engine.load.sample import Sample  # noqa: E402
from engine.model.tokenizer import Tokenizer  # noqa: E402
from engine.scheduler.kept import KEEP_S  # noqa: E402

LEFT = "left"
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
NUM_WORDS = 2000
"""that occur: a tokenizer remembers each of the last 10,000, which is no leak"""
SHARE_LEAVING = 0.25
LOOK_S = 1.0
REST_S = 2.0
"""until connections are closed at both ends"""
OVERLOAD = 2.0
CLOSED_LOOP = 8
"""clients of the measurement of what is sustained"""
NUM_SUSTAINED = 150
SLACK_KB = 2048
"""of memory, beside 5 %: an allocator grows by whole arenas, whoever asks"""
SLACK = {"num_files": 0, "file_kb": 16 << 10, "num_threads": 8}
"""a journal is written anew when it has grown to 8 MB; pools of threads grow as they are wanted"""
GATEWAY = "lendkv-gateway 0"
KEPT_KB = 8
"""of the gateway, for each answer that it keeps: more of them where requests are served faster"""


@dataclass(slots=True)
class Usage:
    """What one process has, as the kernel says."""

    memory_kb: int
    """its own: pools, weights and libraries are shared, and mapped files"""
    num_files: int
    file_kb: int
    """of all files that it has open: journals and logs grow on a disk"""
    num_threads: int


@dataclass(slots=True)
class Findings:
    seconds: float
    sustained_per_s: float
    outcomes: Sequence[Outcome]
    rest: dict[str, Usage] = field(default_factory=dict)
    """before the load, when it had answered some"""
    looks: list[dict[str, Usage]] = field(default_factory=list)
    """one a second, by process"""
    warm: int = 0
    """the first look that counts"""
    problems: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            "sustained_per_s": round(self.sustained_per_s, 1),
            "requests": len(self.outcomes),
            "ends": dict(self.ends()),
            "kept": self.kept(),
            "memory_kb": {name: self.memory(name) for name in self.looks[-1]},
            "last": {name: asdict(usage) for name, usage in self.looks[-1].items()},
            "problems": self.problems,
        }

    def ends(self) -> Counter[str]:
        return Counter(map(end_of, self.outcomes))

    def memory(self, name: str) -> list[int]:
        """Of a process: the median of the first and of the last quarter after it was warm."""
        values = [look[name].memory_kb for look in self.looks[self.warm :] if name in look]
        quarter = max(1, len(values) // 4)
        return [int(np.median(values[:quarter])), int(np.median(values[-quarter:]))]

    def kept(self) -> list[int]:
        """Answers that are kept, in the middle of these quarters."""
        served = [one for one in self.outcomes if end_of(one) in ("finished", LEFT)]
        began = min(one.due for one in self.outcomes)
        ended = sorted((one.ended or one.sent) - began for one in served)
        warm_s = self.seconds * self.warm / max(1, len(self.looks))
        middles = (warm_s + share * (self.seconds - warm_s) for share in (1 / 8, 7 / 8))
        return [bisect(ended, at) - bisect(ended, at - KEEP_S) for at in middles]


class Visitors:
    """A client of which some requests leave: before a word, or after a few."""

    def __init__(self, client: Client, seed: int) -> None:
        self._client, self._draw = client, random.Random(seed)

    async def send(self, sample: Sample, outcome: Outcome) -> None:
        if self._draw.random() >= SHARE_LEAVING:
            await self._client.send(sample, outcome)
            return
        try:
            await asyncio.wait_for(self._client.send(sample, outcome), self._draw.expovariate(4.0))
        except TimeoutError:
            outcome.error = LEFT


def end_of(outcome: Outcome) -> str:
    if outcome.completed:
        return "finished"
    return "HTTP 503" if outcome.error.startswith("HTTP 503: ") else outcome.error


def draw_samples(number: int, rng: np.random.Generator) -> list[Sample]:
    """Mostly short ones; one in ten needs more blocks than a pool has, and borrows."""
    words = ["".join(rng.choice(LETTERS, rng.integers(1, 10))) for _ in range(NUM_WORDS)]
    samples = []
    for _ in range(number):
        long = rng.random() < 0.1
        size = int(rng.integers(200, 260) if long else rng.integers(1, 90))
        prompt = " ".join(rng.choice(words, size))[:size]
        samples.append(Sample(prompt, size, int(rng.integers(1, 40))))
    return samples


async def soak(server: Server, seconds: float, warm_s: float) -> Findings:
    """Load it for so long; looks count after ``warm_s``."""
    options = Options(base_url=server.url)
    clock, rng = Clock(), np.random.default_rng(7)
    findings = Findings(seconds, 0.0, ())
    tokenizer = Tokenizer(byte_tokenizer(), None)
    never = asyncio.Event()

    async def load(client: Any, samples: Sequence[Sample], due: Any, cap: int) -> list[Outcome]:
        return await run(
            client,
            clock,
            samples,
            due,
            max_concurrency=cap,
            stopped=never,
            on_progress=lambda _: None,
        )

    async def watch() -> None:
        while True:
            findings.looks.append(look(server))
            await asyncio.sleep(LOOK_S)

    async with Client(options, "tiny", tokenizer, clock) as client:
        samples = draw_samples(NUM_SUSTAINED, rng)
        done = await load(client, samples, np.zeros(len(samples)), CLOSED_LOOP)
    assert all(outcome.completed for outcome in done), Counter(map(end_of, done))
    findings.sustained_per_s = len(done) / max(outcome.ended for outcome in done)
    server.wait_until(server.idle)
    findings.rest = look(server)
    async with Client(options, "tiny", tokenizer, clock) as client:
        rate = OVERLOAD * findings.sustained_per_s
        samples = draw_samples(int(rate * seconds), rng)
        watching = asyncio.create_task(watch())
        due = steady(len(samples), rate, 1.0, rng)
        findings.outcomes = await load(Visitors(client, 7), samples, due, 0)
        watching.cancel()
    findings.warm = int(warm_s / LOOK_S)
    server.wait_until(server.idle)  # all blocks are free, and nothing is lent
    time.sleep(REST_S)
    findings.problems = judge(findings, look(server))
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
        if left := server.metric(name):
            findings.problems.append(f"{name} is {left} at the end")
    return findings


def judge(findings: Findings, last: dict[str, Usage]) -> list[str]:
    """What is wrong with the ends of requests, and with what processes have when all is done."""
    said = [
        f"{number} requests: {end}"
        for end, number in findings.ends().items()
        if end not in ("finished", LEFT, "HTTP 503")
    ]
    if last.keys() != findings.rest.keys():
        said.append(f"processes: {sorted(findings.rest)} became {sorted(last)}")
    for name in last.keys() & findings.rest.keys():
        before, after = findings.memory(name)
        allowed = before * 1.05 + SLACK_KB
        if name == GATEWAY:
            fewer, more = findings.kept()
            allowed += KEPT_KB * max(0, more - fewer)
        if after > allowed:
            said.append(f"{name}: {before} kB grew to {after} kB, allowed are {allowed:.0f} kB")
        for what, slack in SLACK.items():
            was, became = getattr(findings.rest[name], what), getattr(last[name], what)
            if became > was + slack:
                said.append(f"{name}: {what} was {was} and became {became}")
    return said


def look(server: Server) -> dict[str, Usage]:
    """All processes of the cluster, each under a name of its own."""
    found = {}
    for process in sorted(descendants(server.process.pid), key=lambda one: one.pid):
        name, folder = f"{process.name} {rank_of(process.pid)}", Path(f"/proc/{process.pid}")
        with suppress(OSError):  # it has just ended
            lines = dict(
                line.split(":", 1) for line in (folder / "status").read_text().splitlines()
            )
            sizes = []
            for entry in (folder / "fd").iterdir():
                with suppress(OSError):  # a socket of a client that has just gone
                    about = entry.stat()
                    sizes.append(about.st_size if S_ISREG(about.st_mode) else 0)
            found[name] = Usage(
                memory_kb=int(lines["RssAnon"].split()[0]),
                num_files=len(sizes),
                file_kb=sum(sizes) // 1024,
                num_threads=int(lines["Threads"]),
            )
    return found


def main(seconds: float) -> int:
    with (
        tempfile.TemporaryDirectory(prefix="lendkv-soak-") as folder,
        serve(Path(folder)) as server,
    ):
        findings = asyncio.run(soak(server, seconds, warm_s=min(300.0, seconds / 3)))
    if server.said:
        findings.problems.append(server.said)
    print(json.dumps(findings.figures(), indent=1))
    return 1 if findings.problems else 0


def serve(folder: Path) -> Server:
    """Two instances with a queue that is full at some time."""
    model = make_chatting_checkpoint(folder / "model")
    return Server(model, 2, "serve.max_queued_requests=24")


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
