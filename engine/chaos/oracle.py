"""What the answers must be: each context answered by one big instance that nobody disturbs.

With ``model.bits=schedule`` only; ``forced.py`` judges answers that may be one of several.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from engine.config import ChaosConfig, Component, Config
from engine.core import SamplingParams
from engine.errors import ConfigError
from engine.model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Context:
    """A prompt, and the text that each number of an answer's events must carry, if only one may."""

    prompt_ids: list[int]
    pieces: dict[int, str] | None

    def num_wrong(self, told: dict[int, str]) -> int:
        """Events that differ, are missing or should not be."""
        assert self.pieces is not None
        numbers = self.pieces.keys() | told.keys()
        return sum(self.pieces.get(number, "") != told.get(number, "") for number in numbers)


def cut_prompts(text_ids: Sequence[int], chaos: ChaosConfig) -> list[list[int]]:
    """``contexts`` long prompts, then as many short ones; no two begin alike."""
    lengths = [chaos.long_tokens] * chaos.contexts + [chaos.short_tokens] * chaos.contexts
    step = max(1, (len(text_ids) - chaos.long_tokens) // len(lengths))
    prompts = [list(text_ids[i * step : i * step + n]) for i, n in enumerate(lengths)]
    if any(len(prompt) < n for prompt, n in zip(prompts, lengths, strict=True)):
        raise ConfigError(
            f"chaos.prompt_file has {len(text_ids)} tokens, and chaos.long_tokens is "
            f"{chaos.long_tokens}: give a longer text or cut shorter contexts"
        )
    return prompts


def pieces_of(tokenizer: Tokenizer, token_ids: Sequence[int]) -> dict[int, str]:
    """An answer as a gateway's stream tells it: event number -> text, where there is some."""
    stream = tokenizer.stream()
    pieces = {number: stream.push(token) for number, token in enumerate(token_ids, 1)}
    pieces[len(token_ids) + 1] = stream.flush()
    return {number: text for number, text in pieces.items() if text}


def undisturbed(pipe: Connection, config: Config, prompts: Sequence[Sequence[int]]) -> int:
    """A process: answers all prompts one after the other and sends {"done"} then {"answers"}."""
    import torch

    from engine.llm import LLM

    torch.set_num_threads(config.threads)
    longest = max(map(len, prompts)) + config.chaos.max_tokens
    num_blocks = -(-longest // config.pool.block_tokens) + config.scheduler.grow_blocks + 1
    num_blocks = max(num_blocks, 2 * config.pool.num_blocks)
    big = replace(
        config,
        instances=1,
        tp=1,
        placement=Component(name="local_only"),
        pool=replace(config.pool, num_blocks=num_blocks, sizes=[], memory=""),
        callbacks=[],
    )
    llm = LLM(big)
    sampling = SamplingParams(max_tokens=config.chaos.max_tokens, ignore_eos=True)
    answers = []
    for prompt in prompts:
        (completion,) = llm.generate([prompt], sampling)
        answers.append(completion.token_ids)
        pipe.send({"done": len(answers)})
    pipe.send({"answers": answers})
    return 0
