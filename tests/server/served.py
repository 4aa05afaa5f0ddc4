"""A true server under the true torchrun, over a tiny model that chats, and how to talk to it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shared_memory
from openai import OpenAI

try:
    import httpx2 as httpx  # what the openai client brings along
except ImportError:
    import httpx

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "launch"))

from command import MARK, Command, parent_of, rank_of  # noqa: E402, F401
from tiny_checkpoint import byte_tokenizer, make_tiny_checkpoint  # noqa: E402

GUARD_S = 120.0
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"
POSITIONS = 1024
BLOCK_TOKENS = 8


def make_chatting_checkpoint(path: Path, **overrides: Any) -> Path:
    make_tiny_checkpoint(path, **{"max_positions": POSITIONS} | overrides)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def ids_of(text: str) -> list[int]:
    return list(byte_tokenizer().encode(text).ids)


def text_of(ids: list[int]) -> str:
    return str(byte_tokenizer().decode(ids))


def chat_ids(content: str) -> list[int]:
    return ids_of(f"<user>{content}\n<assistant>")


def free_ports(number: int) -> int:
    """The first of so many free ports in a row, below those that the kernel gives to others."""
    while True:
        first = random.SystemRandom().randrange(20000, 32000)
        if all(is_free(first + i) for i in range(number)):
            return first


def is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def steps_of(pids: list[int]) -> list[int]:
    return [p for p in pids if Path(f"/proc/{p}/comm").read_text().strip() == "lendkv-step"]


class Server:
    """``torchrun ... -m engine serve`` with a recipe of small pools.

    As a context it is ready, and ends in order.
    """

    said = ""

    def __init__(self, model: Path | str, instances: int, *overrides: str) -> None:
        self.model, self.instances = model, instances
        self.port = free_ports(instances + 1)
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.before = shared_memory.names()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(instances), "-m", "engine", "serve"]
        command += [
            f"instances={instances}",
            f"model.path={model}",
            "model.dtype=float32",
            "pool.num_blocks=24",
            f"pool.block_tokens={BLOCK_TOKENS}",
            "scheduler.max_step_tokens=32",
            "scheduler.lease_s=3",
            f"serve.port={self.port}",
            f"serve.instance_port={self.port + 1}",
            "serve.model_name=tiny",
            "serve.max_body_bytes=50000",
            "serve.access_log=false",  # stderr is for complaints
        ]
        self.process = subprocess.Popen(
            [*command, *overrides],
            stdout=subprocess.DEVNULL,
            stderr=self.stderr,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", MARK: self.mark},
            start_new_session=True,
        )
        self.http = httpx.Client(base_url=self.url, timeout=GUARD_S)
        self.openai = self.client()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, instance: int | None = None) -> OpenAI:
        port = self.port if instance is None else self.port + 1 + instance
        url = f"http://127.0.0.1:{port}/v1"
        return OpenAI(base_url=url, api_key="none", max_retries=0, timeout=GUARD_S)

    def errors(self) -> str:
        self.stderr.seek(0)
        return self.stderr.read()

    def wait_until(self, ready: Any) -> None:
        deadline = time.monotonic() + GUARD_S
        while not ready():
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < deadline, (self.errors(), self.health())
            time.sleep(0.03)

    def health(self) -> list[dict[str, Any]]:
        with suppress(httpx.HTTPError):
            return list(self.http.get("/health").json()["instances"])
        return []

    def ready(self) -> bool:
        """Every gateway has heard of what it serves: each asks the planner by itself."""
        cards = self.health()
        is_whole = len(cards) == self.instances and all(card["ready"] for card in cards)
        return is_whole and all(self._takes(self.port + 1 + n) for n in range(self.instances))

    def _takes(self, port: int) -> bool:
        with suppress(httpx.HTTPError):
            return bool(self.http.get(f"http://127.0.0.1:{port}/ready").status_code == 200)
        return False

    def idle(self, spare: int = 0) -> bool:
        """All blocks are free, up to ``spare`` in each pool, and nothing is lent."""
        return self.ready() and all(
            card["free"] >= card["blocks"] - spare and not card["lent"] for card in self.health()
        )

    def metric(self, name: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))

    def num_aborted(self) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        ends = [line for line in lines if line.startswith("vllm:request_success_total")]
        return sum(float(line.split()[-1]) for line in ends if '"abort"' in line)

    # --- processes --------------------------------------------------------------------------

    def pids(self) -> list[int]:
        marked = f"{MARK}={self.mark}".encode()
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with suppress(OSError):
                    if marked in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                        found.append(int(entry))
        return found

    def children(self, rank: int) -> list[int]:
        """Of a rank's supervisor, oldest first."""
        pids = [pid for pid in self.pids() if rank_of(pid) == rank]
        supervisor = next(pid for pid in pids if parent_of(pid) not in pids)
        return sorted((p for p in pids if parent_of(p) == supervisor), key=_started)

    def pid_of(self, role: str) -> int:
        """``gateway``, ``planner``, ``step I``, ``rank I`` or ``pool I``, by what they have."""
        name, _, rank = role.partition(" ")
        if name == "gateway":
            self.wait_until(lambda: any(_holds(p, "gateway.") for p in self.children(0)))
            return next(p for p in self.children(0) if _holds(p, "gateway."))
        rest = [p for p in self.children(int(rank or 0)) if not _holds(p, ".journal")]
        if name in ("step", "rank"):  # rank: the second of the step's tp ranks
            return [p for p in rest if _maps(p, "libtorch_cpu")][name == "rank"]
        rest = [p for p in rest if not _maps(p, "libtorch_cpu")]
        return rest[0] if name == "planner" else rest[-1]

    def kill(self, pid: int) -> None:
        """And see that the supervisor starts it again."""
        before = self.errors().count("starting it again")
        os.kill(pid, signal.SIGKILL)
        self.wait_until(lambda: self.errors().count("starting it again") > before)

    def __enter__(self) -> "Server":
        try:
            self.wait_until(self.ready)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it; ``said`` is then what it had to say."""
        self.said = self.stop()

    def stop(self) -> str:
        """SIGTERM ends all, in order; what was said on stderr before it.

        torchrun itself tells a SIGTERM with a traceback.
        """
        self.http.close()
        self.openai.close()
        said = self.errors()
        try:
            self.process.terminate()
            self.process.wait(GUARD_S)
            deadline = time.monotonic() + 20
            while self.pids() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not self.pids()
            left = shared_memory.names() - self.before
            assert not left, left
            assert "/engine/" not in self.errors()[len(said) :], "a traceback of ours at the end"
            return said
        finally:
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(10)
            self.stderr.close()


@dataclass
class Stream:
    """A stream read by hand, event by event: what came so far, and the last event's id."""

    text: str = ""
    last_id: str = ""
    finish_reason: str = ""
    error: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    num_events: int = 0

    def read(self, lines: Iterator[str]) -> Iterator[None]:
        """Yields after each event; a connection that breaks ends it."""
        event_id = ""
        with suppress(httpx.TransportError):
            for line in lines:
                if line.startswith("id: "):
                    event_id = line[4:]
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    self.done = True
                    return
                self._take(json.loads(line[6:]))
                self.last_id = event_id or self.last_id
                self.num_events += 1
                yield

    def _take(self, body: dict[str, Any]) -> None:
        if "error" in body:
            self.error = body["error"]
        for choice in body.get("choices", []):
            assert not self.finish_reason, "something came after the end"
            self.text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            self.finish_reason = choice["finish_reason"] or ""


def _started(pid: int) -> tuple[int, int]:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[19]), pid)


def _holds(pid: int, name: str) -> bool:
    with suppress(OSError):
        return any(name in os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _maps(pid: int, name: str) -> bool:
    with suppress(OSError):
        return name in Path(f"/proc/{pid}/maps").read_text()
    return False
