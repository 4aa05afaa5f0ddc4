"""Prompts: from a checked body to token ids that the model can run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.model.tokenizer import Tokenizer
from engine.server.problems import Problem
from engine.server.schemas import ChatBody, ChatMessage, CompletionBody
from engine.server.tools.prompt import for_template
from engine.server.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class Prompt:
    ids: list[int]
    text: str | None = None
    """as it was sent, if it was text"""


class Prompts:
    def __init__(self, tokenizer: Tokenizer, *, max_positions: int, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._max_positions = max_positions
        self._vocab_size = vocab_size
        pieces = tokenizer.backend.get_vocab(with_added_tokens=True)
        self._max_characters = max_positions * max(map(len, pieces), default=1)
        """no token stands for more characters than its name has"""

    def of(self, body: ChatBody | CompletionBody) -> list[Prompt]:
        """Raises Problem."""
        most = self._most(body)
        if isinstance(body, ChatBody):
            text = self.render(body.messages, body.told_tools, more=body.chat_template_kwargs)
            return [Prompt(self.encode(text, add_special_tokens=False, most=most))]
        return [self._plain(prompt, most) for prompt in body.prompt]

    def encode(
        self, text: str, *, add_special_tokens: bool = True, most: int | None = None
    ) -> list[int]:
        """Raises Problem for more text than can fit, before all of it is encoded.

        ``most``: of a longer text the last tokens, with the special ones that each prompt has.
        """
        if most is not None:
            backend = self._tokenizer.backend
            encoding = backend.encode(text, add_special_tokens=False)
            num_added = backend.num_special_tokens_to_add(False) if add_special_tokens else 0
            encoding.truncate(max(0, most - num_added), direction="left")
            whole = backend.post_process(encoding, add_special_tokens=add_special_tokens)
            return list(whole.ids)[-most:]
        if len(text) > self._max_characters:
            raise self.too_long(f"{len(text)} characters")
        return list(self._tokenizer.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        bad = next((token for token in ids if token >= self._vocab_size), None)
        if bad is not None:
            raise Problem(400, f"Token id {bad} is not below {self._vocab_size}.", param=param)

    def too_long(self, length: str) -> Problem:
        return Problem(
            400,
            f"This model's maximum context length is {self._max_positions} tokens. However, your "
            f"prompt has {length} and needs room for an answer.",
            code="context_length_exceeded",
        )

    def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Tool] = (),
        *,
        begins_answer: bool = True,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text. Raises Problem."""
        template = self._tokenizer.template
        if template is None:
            raise Problem(400, "This model has no chat template; use /v1/completions.")
        told = [tool.plain() for tool in tools]
        try:
            plain = [message.plain() for message in messages]
            plain = for_template(plain, told, knows_tools=template.knows_tools)
            return template.render(plain, told, begins_answer=begins_answer, more=more)
        except ValueError as error:
            raise Problem(400, f"The chat template refuses: {error}", param="messages") from error

    def _most(self, body: ChatBody | CompletionBody) -> int | None:
        """Tokens that the prompt may have, if it is to be truncated. Raises Problem."""
        most, param = body.truncate_prompt_tokens, "truncate_prompt_tokens"
        if most is None:
            return None
        if most < 0:
            return max(1, self._max_positions - max(1, body.wanted_tokens or 1))
        if most > self._max_positions:
            text = f"{param} is {most}, more than the model's {self._max_positions} positions."
            raise Problem(400, text, param=param)
        return most

    def _plain(self, prompt: str | list[int], most: int | None) -> Prompt:
        if isinstance(prompt, str):  # a truncated one is echoed as what is left of it
            found = Prompt(self.encode(prompt, most=most), prompt if most is None else None)
        else:
            found = Prompt(prompt if most is None else prompt[-most:])
        if not found.ids:
            raise Problem(400, "The prompt is empty.", param="prompt")
        self.check_ids(found.ids, "prompt")
        return found
