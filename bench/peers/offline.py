"""Times vLLM or transformers: ``PYTHON offline.py vllm FOLDER THREADS CASES``.

Run by the Python that has the peer, so nothing of ours is imported. CASES is JSON, ``[[sequences,
prompt tokens, output tokens], ...]``; the last line printed is JSON too, for each case the tokens
per second of prefill (until all have their first token) and of decode (after it).
"""

import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

Stamps = list[float]
"""when the prompts were given, and when all sequences had one more token"""
Generate = Callable[[list[list[int]], int], Stamps]


def vllm(folder: str, threads: int) -> Generate:
    from vllm import LLM, SamplingParams

    llm = LLM(
        folder,
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=8192,
        enable_prefix_caching=False,
    )
    engine = llm.llm_engine

    def generate(prompts: list[list[int]], num_tokens: int) -> Stamps:
        wanted = SamplingParams(
            max_tokens=num_tokens, temperature=0, ignore_eos=True, detokenize=False
        )
        counts = {str(number): 0 for number in range(len(prompts))}
        stamps = [time.perf_counter()]
        for name, prompt in zip(counts, prompts, strict=True):
            engine.add_request(name, {"prompt_token_ids": prompt}, wanted)
        while engine.has_unfinished_requests():
            for output in engine.step():
                counts[output.request_id] = len(output.outputs[0].token_ids)
            if min(counts.values()) == len(stamps):
                stamps.append(time.perf_counter())
        return stamps

    return generate


def transformers(folder: str, threads: int) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteriaList

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    def generate(prompts: list[list[int]], num_tokens: int) -> Stamps:
        def stamp(ids: Any, scores: Any) -> Any:
            stamps.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        inputs = torch.tensor(prompts)
        stamps = [time.perf_counter()]
        model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([stamp]),
        )
        return stamps

    return generate


def main() -> None:
    peer, folder, threads, cases = sys.argv[1:]
    generate: Generate = {"vllm": vllm, "transformers": transformers}[peer](folder, int(threads))
    rng = random.Random(0)
    generate([[rng.randrange(1000, 40000) for _ in range(64)]], 8)  # warms up
    rates = []
    for sequences, prompt, output in json.loads(cases):
        prompts = [[rng.randrange(1000, 40000) for _ in range(prompt)] for _ in range(sequences)]
        start, first, *_, last = generate(prompts, output + 1)
        prefill, decode = sequences * prompt / (first - start), sequences * output / (last - first)
        rates.append((prefill, decode))
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
