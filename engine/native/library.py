"""Compiles the C++ files beside this one on first use and loads them; knows not what they do.

The shared object is cached by the hash of sources, compiler and processor, so a machine compiles
once. A lock lets many processes start at the same time. A source whose first line is
``// flags <machine>: ...`` is compiled with those flags too on such machines.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from engine.errors import ConfigError

FLAGS = ("-O3", "-march=native", "-std=c++20", "-fPIC", "-pthread", "-ffp-contract=off", "-w")
COMPILERS = ("c++", "g++", "clang++")


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/lendkv`` or ``~/.cache/lendkv``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "lendkv"


@functools.cache
def load() -> ctypes.CDLL:
    """The helper library, compiled if this machine has not yet.

    Raises ConfigError in one sentence when there is no compiler or it fails.
    """
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise ConfigError(
            f"the native helper needs a C++ compiler and none of {', '.join(COMPILERS)} is on "
            "PATH: install one (Debian: apt-get install g++), or do without by transport.name=tcp "
            "attention.options.local=numpy pool.kernel=numpy"
        )
    sources = sorted(Path(__file__).parent.glob("*.cpp"))
    target = cache_folder() / f"native-{_hash(compiler, sources)}.so"
    if not target.exists():
        _compile(compiler, sources, target)
    try:
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise ConfigError(
            f"the native helper {target} does not load ({error}); delete it to compile it again"
        ) from error


def _compile(compiler: str, sources: list[Path], target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                return
            partial = target.with_suffix(f".{os.getpid()}.tmp")
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                objects = [os.path.join(folder, f"{source.stem}.o") for source in sources]
                compile_all = [
                    [compiler, *FLAGS, *_own_flags(source), "-c", str(source), "-o", to]
                    for source, to in zip(sources, objects, strict=True)
                ]
                _run(compile_all)
                _run([[compiler, "-shared", "-pthread", *objects, "-o", str(partial)]])
            os.replace(partial, target)
    except OSError as error:
        raise ConfigError(
            f"cannot write the compiled native helper to {target.parent} ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error


def _own_flags(source: Path) -> list[str]:
    start, _, flags = source.read_text().partition("\n")[0].partition(":")
    return flags.split() if start == f"// flags {platform.machine()}" else []


def _run(commands: list[list[str]]) -> None:
    """Side by side; raises ConfigError with what the first that failed said."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
            for command in commands
        ]
        said = [process.communicate()[1] for process in started]
    for command, process, text in zip(commands, started, said, strict=True):
        if process.returncode:
            lines = [line for line in text.splitlines() if "error" in line]
            raise ConfigError(
                f"{command[0]} could not compile the native helper: "
                f"{(lines or text.splitlines() or ['no output'])[0]}"
            )


def _hash(compiler: str, sources: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    headers = sorted(Path(__file__).parent.glob("*.h"))
    texts = [path.read_bytes() for path in (*sources, *headers)]
    for part in (compiler.encode(), version, _processor(), *texts):
        digest.update(len(part).to_bytes(8, "little") + part)
    digest.update(" ".join(FLAGS).encode())
    return digest.hexdigest()


def processor_flags() -> frozenset[str]:
    """The processor's instruction sets by the kernel's names."""
    return frozenset(_processor().decode().split())


def _processor() -> bytes:
    """What ``-march=native`` depends on: the model and the instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return b""
    wanted = ("model name", "flags", "Features")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted))).encode()
