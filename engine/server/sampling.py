"""Sampling: from a checked body to SamplingParams that the model can run."""

import hashlib
import secrets
from dataclasses import replace

from engine.core import MAX_SEED, SamplingParams
from engine.model.generation import GenerationDefaults
from engine.server.problems import Problem
from engine.server.prompts import Prompts
from engine.server.schemas import ChatBody, Common, CompletionBody


class Sampling:
    def __init__(
        self, prompts: Prompts, defaults: GenerationDefaults, *, max_positions: int
    ) -> None:
        self._prompts = prompts
        self._defaults = defaults
        self._max_positions = max_positions

    def of(
        self, body: ChatBody | CompletionBody, num_prompt: int, grammar: str = ""
    ) -> SamplingParams:
        """For a prompt of so many tokens. Raises Problem."""
        room = self._max_positions - num_prompt
        if room < 1:
            raise self._prompts.too_long(f"{num_prompt} tokens")
        default = 16 if isinstance(body, CompletionBody) else room
        max_tokens = default if body.wanted_tokens is None else body.wanted_tokens
        if body.min_tokens > max_tokens:
            raise Problem(
                400,
                f"min_tokens is {body.min_tokens} and max_tokens {max_tokens}; "
                "the first must not be more than the second.",
                param="min_tokens",
            )
        seed = secrets.randbits(48) if body.seed is None else body.seed % MAX_SEED
        return SamplingParams(
            max_tokens=min(max(max_tokens, 1), room),
            min_tokens=min(body.min_tokens, room),
            temperature=self._or_default(body, "temperature"),
            top_p=self._or_default(body, "top_p"),
            top_k=max(int(self._or_default(body, "top_k")), 0),
            min_p=self._or_default(body, "min_p"),
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=self._or_default(body, "repetition_penalty"),
            logit_bias=self._logit_bias(body),
            allowed_token_ids=self._ids(body, "allowed_token_ids"),
            bad_words=self._bad_words(body),
            stop_token_ids=self._ids(body, "stop_token_ids"),
            seed=seed,
            ignore_eos=body.ignore_eos,
            logprobs=body.num_logprobs,
            prompt_logprobs=body.num_prompt_logprobs,
            grammar=grammar,
        )

    def _or_default(self, body: Common, name: str) -> float:
        given: float | None = getattr(body, name)
        default: float = getattr(self._defaults, name)
        return default if given is None else given

    def _ids(self, body: Common, name: str) -> tuple[int, ...]:
        ids: list[int] = getattr(body, name)
        self._prompts.check_ids(ids, name)
        return tuple(dict.fromkeys(ids))

    def _logit_bias(self, body: Common) -> tuple[tuple[int, float], ...]:
        self._prompts.check_ids(list(body.logit_bias), "logit_bias")
        return tuple(body.logit_bias.items())

    def _bad_words(self, body: Common) -> tuple[tuple[int, ...], ...]:
        """A word may stand at the beginning, or behind a space."""
        texts = [text for word in body.bad_words for text in (word, f" {word.lstrip()}")]
        found = [tuple(self._prompts.encode(one, add_special_tokens=False)) for one in texts]
        return tuple(dict.fromkeys(ids for ids in found if ids))


def of_choice(sampling: SamplingParams, index: int) -> SamplingParams:
    """That of choice ``index`` of the same prompt: the first one is drawn as if it were alone."""
    if not index:
        return sampling
    text = f"{sampling.seed}/{index}".encode()
    digest = hashlib.blake2b(text, digest_size=6).digest()
    return replace(sampling, seed=int.from_bytes(digest, "little"))
