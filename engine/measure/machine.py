"""Machine: the profile's file, with what every number comes from."""

import os
from collections.abc import Sequence
from pathlib import Path

from engine.errors import ConfigError
from engine.memory.room import available_bytes
from engine.sim.hardware.model import Model
from engine.sim.hardware.profile import Device, Link, Measured, Profile

GB = 1e9


def profile_from(
    measured: Measured, model: Model, *, way_s: float, copy_rate: float, threads: int, cores: int
) -> Profile:
    """Of one device for each instance, that is ``threads`` cores.

    Memory rate and matrix rate are what the timed steps reached: they describe other models of the
    same kind, while ``measured`` holds for this one alone.
    """
    devices = max(1, cores // threads)
    matrices = model.num_layers * model.layer_parameters
    read = model.item_bytes * (matrices + model.head_parameters)
    link = Link(bandwidth=copy_rate, latency_s=way_s)
    return Profile(
        device=Device(
            memory_bytes=float((available_bytes() or 8 * GB) // devices),
            bandwidth=read / measured.rows_s[0],
            flops=2 * matrices * measured.rows[-1] / measured.rows_s[-1],
        ),
        devices_per_node=devices,
        intra=link,
        inter=link,
        measured=measured,
    )


def written(profile: Profile, notes: Sequence[str]) -> str:
    """The YAML file, numbers to five digits."""
    device, measured = profile.device, profile.measured
    assert measured is not None
    lines = [f"# {note}" for note in notes]
    lines += [
        "device:                       # cores of one instance",
        f"  memory_bytes: {device.memory_bytes:.5g}   # this host's free memory, shared out",
        f"  bandwidth: {device.bandwidth:.5g}      # weights read by the timed decode of one row",
        f"  flops: {device.flops:.5g}          # products of the timed prefill",
        f"devices_per_node: {profile.devices_per_node}",
    ]
    for name, note in (
        ("intra", "timed questions and copies"),
        ("inter", "not measured: as intra"),
    ):
        link: Link = getattr(profile, name)
        lines += [
            f"{name}:                        # {note}",
            f"  bandwidth: {link.bandwidth:.5g}",
            f"  latency_s: {link.latency_s:.5g}",
        ]
    lines += ["measured:"]
    for name, note in NOTES.items():
        value = getattr(measured, name)
        if isinstance(value, list):
            told = "[" + ", ".join(f"{one:.5g}" for one in value) + "]"
        else:
            told = str(value).lower() if isinstance(value, bool) else f"{value:.5g}"
        lines += [f"  # {note}", f"  {name}: {told}"]
    return "\n".join(lines) + "\n"


NOTES = {
    "sizes": "layers, hidden, heads, KV heads, head size, vocabulary: of this model only",
    "rows": "of a step",
    "rows_s": "seconds of such a step with one sampled row, its keys apart",
    "batches": "sampled rows",
    "batches_s": "what they add",
    "read_key_s": "a key that a decode reads",
    "pair_s": "a row and a key of a prefill",
    "ask_s": "a step that asks a holder, in any case",
    "answer_s": "a holder, for a step that asks it, its keys apart",
    "wait_s": "how much longer answers take of a holder that is in a step",
    "beside": "a step is so many times as long while a neighbour on this host is in one",
    "front_s": "a step more on the cores that frontend and planner share",
    "token_s": "and that for each token that it sends",
    "control_s": "a request's way to its step and its token's way back",
    "maps": "instances on one host read each other's memory in place",
}


def save(text: str, path: Path) -> None:
    """Whole or not at all. Raises ConfigError when it cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
