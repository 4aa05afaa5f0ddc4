"""Logprobs in the shapes of the OpenAI API, and in vLLM's for prompts."""

from collections.abc import Sequence
from typing import Any

from engine.core import Score
from engine.model.token_names import TokenNames

LOWEST = -9999.0
"""what JSON has for minus infinity, as in vLLM"""


class Logprobs:
    """Shapes Scores; tokens are named by their text, or with ``as_ids`` by ``token_id:N``."""

    def __init__(self, names: TokenNames, *, as_ids: bool = False) -> None:
        self._names, self._as_ids = names, as_ids

    def chat(self, ids: Sequence[int], scores: Sequence[Score], num_top: int) -> dict[str, Any]:
        """``choices[].logprobs`` of a chat."""
        content = [
            self._named(token, score.logprob)
            | {"top_logprobs": [self._named(*one) for one in score.top[:num_top]]}
            for token, score in zip(ids, scores, strict=True)
        ]
        return {"content": content, "refusal": None}

    def completion(
        self,
        ids: Sequence[int],
        scores: Sequence[Score | None],
        offsets: Sequence[int],
        num_top: int,
    ) -> dict[str, Any]:
        """``choices[].logprobs`` of a completion; a prompt's first token has no Score.

        Among the likeliest is always the token itself. Where several have the same text, the
        likeliest stands for it.
        """
        top_logprobs: list[dict[str, float] | None] = []
        for token, score in zip(ids, scores, strict=True):
            if score is None:
                top_logprobs.append(None)
                continue
            top: dict[str, float] = {}
            for one, logprob in (*score.top[:num_top], (token, score.logprob)):
                top.setdefault(self._name(one), _finite(logprob))
            top_logprobs.append(top)
        return {
            "tokens": [self._name(token) for token in ids],
            "token_logprobs": [score and _finite(score.logprob) for score in scores],
            "top_logprobs": top_logprobs,
            "text_offset": list(offsets),
        }

    def prompt(self, ids: Sequence[int], scores: Sequence[Score], num_top: int) -> list[Any]:
        """vLLM's ``prompt_logprobs``: by token id, for each token of the prompt but the first."""
        shown: list[Any] = [None]
        for token, score in zip(ids[1:], scores, strict=True):
            ranked = {one: (rank, lp) for rank, (one, lp) in enumerate(score.top[:num_top], 1)}
            ranked[token] = (score.rank, score.logprob)
            shown.append(
                {
                    str(one): {
                        "logprob": _finite(logprob),
                        "rank": rank,
                        "decoded_token": self._names.text(one),
                    }
                    for one, (rank, logprob) in ranked.items()
                }
            )
        return shown

    def _name(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._as_ids else self._names.text(token_id)

    def _named(self, token_id: int, logprob: float) -> dict[str, Any]:
        name = list(self._names.bytes(token_id))
        return {"token": self._name(token_id), "logprob": _finite(logprob), "bytes": name}


def _finite(logprob: float) -> float:
    return logprob if logprob > LOWEST else LOWEST
