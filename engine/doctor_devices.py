"""What the doctor finds of GPUs, of the backends that attend and of where keys would lie."""

import contextlib
import importlib.metadata
from collections.abc import Iterator

from engine import combinations, devices, gpu_memory
from engine.config import Config
from engine.errors import ConfigError
from engine.finding import Finding, State


def gpu(config: Config) -> Iterator[Finding]:
    """What there is of a GPU and of the backends that use it."""
    try:
        import torch
    except ImportError:
        return  # told among the packages
    from engine.attention import flash
    from engine.attention.triton import backend as triton

    wanted = _backends(config)

    if torch.cuda.is_available():
        yield Finding("GPU", "fine", f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    else:
        found = f"PyTorch {torch.__version__} finds no CUDA GPU"
        yield Finding("GPU", "note", found, "instances compute on the processor")
    if reason := triton.why_not():
        state: State = "wrong" if "triton" in wanted else "note"
        yield Finding("backend triton", state, "cannot run here", reason)
    else:
        where = "Triton's interpreter, slowly" if triton.is_interpreted() else "the GPU"
        version = importlib.metadata.version("triton")
        yield Finding("backend triton", "fine", f"triton {version}, in {where}")
    kernels = "flash-attn's" if flash.has_package() else "PyTorch's (flash-attn is not installed)"
    if reason := flash.why_not():
        state = "wrong" if "flash" in wanted else "note"
        yield Finding("backend flash", state, f"cannot run here; kernels: {kernels}", reason)
    else:
        yield Finding("backend flash", "fine", f"kernels: {kernels}")


def _backends(config: Config) -> set[str]:
    """The recipe's names of what attends to local memory."""
    options = config.attention.options
    near = options.get("local_options", {}).get("near", "")
    return {config.attention.name, str(options.get("local", "")), str(near)}


def attention(config: Config) -> Iterator[Finding]:
    """Whether the recipe's backends are known, and take the options they are given."""
    with contextlib.suppress(ImportError):  # told among the packages
        from engine.build_attention import attention_parts

        try:
            _, _, local, _ = attention_parts(config)
        except ConfigError as error:
            yield Finding("attention", "wrong", "not as it must be", str(error))
        else:
            yield Finding("attention", "fine", f"local memory is attended to by {local.__name__}")


def device(config: Config) -> Iterator[Finding]:
    """Where keys and weights would lie."""
    with contextlib.suppress(ImportError):  # told among the packages
        from engine.build_attention import model_device, seated
        from engine.memory import OF_THE_STEP

        on_device = config.pool.name in OF_THE_STEP
        try:
            first = seated(config, 0, number_here=0, num_here=config.instances)
            where = model_device(first)
            device = devices.pick(str(first.pool.options.get("device", "auto")))
        except ConfigError as error:
            yield Finding("device", "wrong", "not as they must be", str(error))
            return
        found = f"the model runs on {where}, keys lie on {device if on_device else 'the host'}"
        if on_device and config.pool.name == "tiered":
            found += f" and {config.pool.lending.host_blocks} blocks of each instance on the host"
        if where == "cpu" and not on_device:
            yield Finding("device", "fine", found)
        else:
            advice = "pools on devices are tested on the CPU; nobody has run them on a GPU yet"
            yield Finding("device", "note", found, advice)
        if config.pool.name == "device" and config.instances > 1:
            yield _mapping(config, where)
        if config.tp > 1 and where == "cpu" and devices.num_gpus():
            reason = devices.why_no_group(config.tp * config.instances)
            advice = "model.device=cuda gives each a GPU of its own, over NCCL; nobody has tried it"
            found = f"tp={config.tp} ranks compute on the processor"
            yield Finding("tensor parallelism", "note", found, reason or advice)


def _mapping(config: Config, where: str) -> Finding:
    """Whether instances here could read each other's pools in place."""
    from engine.build_attention import model_device, seated

    missing = combinations.unmappable(config)
    if where != "cpu":
        local = str(config.attention.options.get("local", "native"))
        if local != "triton":
            missing.append(f"attention.options.local={local} reads its own pool only: use triton")
        seats = range(config.instances)
        found = {model_device(seated(config, 0, number_here=n, num_here=len(seats))) for n in seats}
        missing += gpu_memory.all_unreachable(sorted(found))
    on = bool(config.pool.options.get("mapped"))
    told = f"pool.options.mapped={str(on).lower()}"
    risk = "" if where == "cpu" else "not proved: that kernels survive a holder that is killed"
    if missing:
        return Finding("mapped pools", "note", f"{told}, and instances ask", "; ".join(missing))
    if not on:
        advice = "; ".join(filter(None, ("true would do here", risk)))
        return Finding("mapped pools", "note", f"{told}, and instances ask", advice)
    return Finding("mapped pools", "note" if risk else "fine", told, risk)
