"""LLM: text in, text out, with instances in this process; for scripts and notebooks."""

import dataclasses
import inspect
import os
from collections.abc import Sequence
from typing import Any

from engine.config import Config, load
from engine.core import SamplingParams
from engine.errors import ConfigError
from engine.inprocess import Completion, Engine

NUMBERS = tuple(one.name for one in dataclasses.fields(Config) if one.type is int)
"""of the recipe, outside its groups"""
PARTS = frozenset(inspect.getfullargspec(Engine.__init__).kwonlyargs)


class LLM(Engine):
    """An Engine from a recipe that takes and gives text.

    ``LLM("recipes/quickstart.yaml", "pool.num_blocks=64").generate(["Once upon a time"])``
    """

    def __init__(
        self, recipe: Config | str | os.PathLike[str] | None = None, *overrides: str, **parts: Any
    ) -> None:
        """``parts`` are those of Engine; ``instances=3`` among them is the override of that name.

        Raises ConfigError, CheckpointError.
        """
        if not all(isinstance(text, str) for text in overrides):
            raise ConfigError(f"overrides are texts such as 'instances=3', not {overrides}")
        overrides += tuple(f"{name}={parts.pop(name)}" for name in NUMBERS if name in parts)
        if unknown := sorted(parts.keys() - PARTS):
            raise ConfigError(
                f"LLM takes no keyword {', '.join(unknown)}: values of a recipe are texts such as "
                f"'pool.num_blocks=64', and keywords are {', '.join([*NUMBERS, *sorted(PARTS)])}"
            )
        if not isinstance(recipe, Config):
            recipe = load(None if recipe is None else os.fspath(recipe), overrides)
        elif overrides:
            raise ConfigError("overrides belong to a recipe; a Config is taken as it is")
        super().__init__(recipe, **parts)

    def generate(
        self,
        prompts: str | Sequence[str | Sequence[int]],
        sampling: SamplingParams | None = None,
        *,
        instances: Sequence[int] = (0,),
    ) -> list[Completion]:
        """Complete a text, or texts and token ids, dealt to ``instances`` in turn; in their order.

        Raises LendKVError with the reason if one is refused.
        """
        if isinstance(prompts, str):
            prompts = [prompts]
        done = self.complete(
            [self._ids(prompt) for prompt in prompts], sampling, instances=instances
        )
        tokenizer = self.checkpoint.tokenizer
        for completion in done:
            completion.text = tokenizer.decode(completion.token_ids) if tokenizer else ""
        return done

    def chat(
        self, messages: Sequence[dict[str, Any]], sampling: SamplingParams | None = None
    ) -> Completion:
        """The assistant's next message; ``messages`` as the OpenAI API has them."""
        if self.checkpoint.tokenizer is None:
            raise ConfigError("this model has no tokenizer.json; give token ids to generate")
        return self.generate([self.checkpoint.tokenizer.chat(messages)], sampling)[0]

    def _ids(self, prompt: str | Sequence[int]) -> Sequence[int]:
        if not isinstance(prompt, str):
            return prompt
        if self.checkpoint.tokenizer is None:
            raise ConfigError("this model has no tokenizer.json; give token ids, not text")
        return self.checkpoint.tokenizer.encode(prompt)
