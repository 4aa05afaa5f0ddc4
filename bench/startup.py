"""Start and memory of a cluster of four: ``python -m bench.startup [--json] [key=value ...]``.

Seconds from the launch until all instances are ready and until the first token; then each instance
answers one prompt, and all processes' memory is counted in proportion (Pss: a page that n processes
map counts 1/n for each), by what is mapped: weights, pools, rest. Beside it: what the weights' file
and the pools hold, and a bare ``import torch`` of the same run.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from bench import fleet
from engine.client import Client
from engine.comm.control import ControlClient
from engine.config import Config, load
from engine.core import SamplingParams

SETTINGS = (
    "instances=4",
    "threads=1",
    "model.path=smollm2",
    "model.dtype=bfloat16",
    "pool.num_blocks=64",
    "pool.block_tokens=64",
)
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 32
OTHERS = ("torchrun", "lendkv-bench")
"""what no instance needs: the launcher, and this benchmark's own process"""
MB = 1e6


def drive(steps: dict[int, ControlClient], client: Client, arguments: fleet.Facts) -> fleet.Facts:
    """First token at instance 0, then one answer of each instance, then the memory."""
    del steps
    ready_s = time.monotonic() - arguments["began"]
    first: list[float] = []
    numbers = random.Random(0)
    for instance in range(arguments["instances"]):
        prompt = [numbers.randrange(1000, 40000) for _ in range(PROMPT_TOKENS)]
        client.complete(
            prompt if instance else prompt[:16],
            SamplingParams(max_tokens=OUTPUT_TOKENS, ignore_eos=True),
            instance=instance,
            on_token=lambda _: first.append(time.monotonic() - arguments["began"]),
        )
    return {"ready_s": ready_s, "first_token_s": first[0], "pss": memory(os.getppid())}


def memory(supervisor: int) -> dict[str, dict[str, int]]:
    """Bytes of proportional memory, by process (its name) and by what is mapped."""
    launcher = _parent(supervisor)
    parents = {int(p.name): _parent(int(p.name)) for p in Path("/proc").glob("[0-9]*")}
    found: dict[str, Counter[str]] = {"torchrun": _pss(launcher)}
    for pid, parent in parents.items():
        if parent == launcher:
            found.setdefault("supervisor", Counter()).update(_pss(pid))
        elif parents.get(parent) == launcher:
            found.setdefault(Path(f"/proc/{pid}/comm").read_text().strip(), Counter()).update(
                _pss(pid)
            )
    return {name: dict(counts) for name, counts in found.items()}


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return 0


def _pss(pid: int) -> Counter[str]:
    """Bytes by kind of mapping."""
    found: Counter[str] = Counter()
    kind = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):  # a mapping's first line: addresses ... perhaps a name
            name = words[5] if len(words) > 5 else ""
            pool = name.startswith("/memfd:")
            kind = "weights" if name.endswith(".safetensors") else "pool" if pool else "rest"
        elif words[0] == "Pss:":
            found[kind] += 1024 * int(words[1])
    return found


def summary(run: fleet.Facts, instances: int) -> dict[str, float]:
    """One run's figures: seconds, and megabytes."""
    pss: dict[str, dict[str, int]] = run["pss"]
    ours = [counts for name, counts in pss.items() if name not in OTHERS]
    found = {"ready_s": run["ready_s"], "first_token_s": run["first_token_s"]}
    found["weights_mb"] = sum(counts.get("weights", 0) for counts in pss.values()) / MB
    found["pools_mb"] = sum(counts.get("pool", 0) for counts in pss.values()) / MB
    found["rest_mb_an_instance"] = sum(counts["rest"] for counts in ours) / MB / instances
    for name, counts in pss.items():
        count = 1 if name in (*OTHERS, "lendkv-planner") else instances
        found[f"rest_mb_{name}"] = counts["rest"] / MB / count
    return found


def weights_mb(config: Config) -> float:
    """What all weights hold, of the model that the instances map."""
    from engine.build_attention import load_model

    weights = load_model(config).weights  # type: ignore[union-attr]
    return sum(one.nbytes for one in weights.values()) / MB


def bare_torch_mb() -> float:
    """The proportional memory of a process that does nothing but import torch."""
    text = "import torch; print(open('/proc/self/smaps_rollup').read())"
    said = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True)
    line = next(one for one in said.stdout.splitlines() if one.startswith("Pss:"))
    return 1024 * int(line.split()[1]) / MB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rounds", type=int, default=5)
    args, overrides = parser.parse_known_args()
    settings = [*SETTINGS, *overrides]
    config = load(None, settings)
    print(f"settings {' '.join(settings)}", flush=True)
    runs: list[dict[str, float]] = []
    for _ in range(args.rounds):
        began = time.monotonic()
        told = {"began": began, "instances": config.instances}
        facts = fleet.run("bench.startup:drive", settings, settle_s=0, **told)
        runs.append(summary(facts, config.instances))
        print(
            f"ready after {runs[-1]['ready_s']:.1f} s, first token after "
            f"{runs[-1]['first_token_s']:.1f} s",
            flush=True,
        )
    facts = {}
    for name in runs[0]:
        found = [run[name] for run in runs]
        facts[name] = round(statistics.median(found), 1)
        print(f"{name:28}{facts[name]:8.1f}  ({min(found):.1f} to {max(found):.1f})")
    facts["weights_file_mb"] = round(weights_mb(config), 1)
    facts["weights_counted"] = round(facts["weights_mb"] / facts["weights_file_mb"], 3)
    facts["bare_torch_mb"] = round(bare_torch_mb(), 1)
    print(
        f"weights: {facts['weights_counted']:.2f} x their {facts['weights_file_mb']} MB in all "
        f"processes together; a bare import torch: {facts['bare_torch_mb']} MB"
    )
    if args.json:
        print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
