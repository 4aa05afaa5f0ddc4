"""What the paper says of operators, from the hardware's model alone: nothing is run."""

from typing import Any

from bench.paper import setup
from bench.paper.results import Results
from engine.sim.hardware.costs import Roofline
from engine.sim.hardware.model import MODELS
from engine.sim.hardware.profile import profile_of
from engine.sim.hardware.step_time import Keys, StepTime, Work
from engine.sim.hardware.topology import Topology

A100 = profile_of("a100-80gb")
CONTEXTS = (4096, 8192, 32768, 131072, 262144)
GPUS = 4
BATCHES = (1, 16, 64, 256)
MOVED_TOKENS = (16, 32)


def run(results: Results, *, quick: bool) -> None:
    results.get("operators/split", split)
    results.get("operators/attention", attention)
    results.get("operators/moves", moves)


def split() -> dict[str, Any]:
    """The paper's motivation: all but attention of a 7B model over eight GPUs, by batch."""
    found = {}
    for batch in BATCHES:
        one, eight = (
            Roofline(A100.device, MODELS["llama2-7b"], Topology(A100, tp)).linear_s(batch, batch)
            for tp in (1, 8)
        )
        found[str(batch)] = one / (8 * eight)
    return {"efficiency": found}


def attention() -> dict[str, Any]:
    """One layer of LLaMA2-13B, one query, four GPUs: milliseconds of three ways, by context.

    ask: a quarter of the keys on each, the query travels. move: the same, the keys travel to it.
    heads: a quarter of the heads on each, an all-reduce behind it.
    """
    model, found = MODELS["llama2-13b"], {}
    heads = Roofline(A100.device, model, Topology(A100, GPUS))
    reduce_s = Topology(A100, GPUS).all_reduce_s(model.hidden_size * model.item_bytes)
    for keys in CONTEXTS:
        part = Keys(1, keys / GPUS, keys / GPUS)
        work = Work(0, 0, part, dict.fromkeys(range(1, GPUS), part))
        ask_s, move_s = (
            StepTime(A100, model, 1, way).of(0, work).seconds / model.num_layers
            for way in ("query", "fetch")
        )
        heads_s = heads.attention_s(keys, keys) / model.num_layers + reduce_s
        found[str(keys)] = {"ask": 1e3 * ask_s, "move": 1e3 * move_s, "heads": 1e3 * heads_s}
    return {"ms": found}


def moves() -> dict[str, Any]:
    """Tokens of keys that leave an instance in each decode step, beside a step whose pool is full.

    Share of the step for which the link is busy: in a node, between nodes, and over the 125 MB/s
    that the notes give for the paper's Ethernet.
    """
    config = setup.cluster("llama2-7b")
    model, times = MODELS["llama2-7b"], StepTime(A100, MODELS["llama2-7b"], 1)
    keys, rows = setup.pool_blocks(config) * config.block_tokens, 32
    step_s = times.of(0, Work(rows, rows, Keys(rows, keys, keys))).seconds
    found = {}
    for tokens in MOVED_TOKENS:
        num_bytes = tokens * model.kv_token_bytes
        found[str(tokens)] = {
            "node": A100.intra.seconds(num_bytes) / step_s,
            "nodes": A100.inter.seconds(num_bytes) / step_s,
            "ethernet": num_bytes / 125e6 / step_s,
        }
    return {"step_s": step_s, "busy": found}
