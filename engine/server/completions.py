"""Completions: from a body to requests that run, one for each choice. Knows no routes."""

import asyncio
import math
import secrets
import time

from engine.core import Request
from engine.model.generation import GenerationDefaults
from engine.model.tokenizer import Tokenizer
from engine.scheduler.entry import Entry
from engine.server.api_keys import Tenant
from engine.server.choices import Choices, name_of
from engine.server.constraints import Constraints
from engine.server.gateway import Gateway
from engine.server.journal import Terms
from engine.server.limits import NO_LIMITS, Limits
from engine.server.problems import SHUTTING_DOWN, Problem
from engine.server.prompts import Prompt, Prompts
from engine.server.sampling import Sampling, of_choice
from engine.server.schemas import ChatBody, CompletionBody
from engine.server.tools.formats import ToolFormat


class Completions:
    def __init__(
        self,
        gateway: Gateway,
        tokenizer: Tokenizer,
        *,
        model: str,
        max_positions: int,
        vocab_size: int,
        limits: Limits = NO_LIMITS,
        defaults: GenerationDefaults | None = None,
        tool_format: ToolFormat | None = None,
    ) -> None:
        """Without a ``tool_format`` tools are refused."""
        self._gateway = gateway
        self._model = model
        self._limits = limits
        self._constraints = Constraints(tokenizer, vocab_size=vocab_size, tool_format=tool_format)
        self._tokenizer = tokenizer
        self.prompts = Prompts(tokenizer, max_positions=max_positions, vocab_size=vocab_size)
        self._sampling = Sampling(
            self.prompts, defaults or GenerationDefaults(), max_positions=max_positions
        )

    async def accept(
        self, body: ChatBody | CompletionBody, tenant: Tenant, request_id: str = ""
    ) -> Choices:
        """Check and submit; raises Problem. Without a ``request_id`` it gets one."""
        self.check_model(body.model)
        if (closes_at := self._gateway.closes_at) is not None:
            left_s = math.ceil(max(1.0, closes_at - time.monotonic()))
            text = "The server is shutting down and takes no more requests; try again later."
            raise Problem(503, text, code=SHUTTING_DOWN, retry_after_s=left_s)
        if not self._gateway.ready:
            raise Problem(503, "No instance is ready yet; try again soon.", retry_after_s=2)
        prompts = await asyncio.to_thread(self.prompts.of, body)
        grammar = await self._constraints.grammar(body)
        sampling = [self._sampling.of(body, len(prompt.ids), grammar) for prompt in prompts]
        kind = "chatcmpl" if isinstance(body, ChatBody) else "cmpl"
        choices_id = f"{kind}-{request_id or secrets.token_hex(12)}"
        num_choices = len(prompts) * body.n
        names = [name_of(choices_id, index, num_choices) for index in range(num_choices)]
        if any(self._gateway.is_busy(name) for name in (choices_id, name_of(choices_id, 0, 2))):
            text = f"A request with the id {request_id!r} is under way; choose another id."
            raise Problem(409, text, param="request_id", code="request_id_in_use")
        entries: list[Entry] = []
        try:
            for index, name in enumerate(names):
                prompt = prompts[index // body.n]
                request = Request(
                    request_id=name,
                    prompt_ids=tuple(prompt.ids),
                    sampling=of_choice(sampling[index // body.n], index % body.n),
                    priority=tenant.priority_of(body.priority),
                    tenant=tenant.name,
                    cache_salt=body.cache_salt or "",
                    max_borrowed=tenant.max_borrowed,
                )
                census, members = self._gateway.table.census, self._gateway.members
                self._limits.check(request, tenant, census, members, time.monotonic())
                terms = self._terms(body, prompt, index, num_choices)
                entries.append(self._gateway.submit(request, terms))
        except Problem:
            for entry in entries:
                self._gateway.cancel(entry.request.request_id)
            raise
        return Choices(choices_id, entries, body.n)

    def check_model(self, name: str) -> None:
        """Raises Problem."""
        if name not in (self._model, self._model.rsplit("/", 1)[-1]):
            raise Problem(
                404,
                f"The model `{name}` does not exist; this server has `{self._model}`.",
                param="model",
                code="model_not_found",
            )

    def _terms(
        self, body: ChatBody | CompletionBody, prompt: Prompt, index: int, num_choices: int
    ) -> Terms:
        options, echo = body.stream_options, None
        if isinstance(body, CompletionBody) and body.echo:
            echo = self._tokenizer.decode(prompt.ids) if prompt.text is None else prompt.text
        return Terms(
            chat=isinstance(body, ChatBody),
            stops=body.stops,
            usage=options is not None and options.include_usage,
            token_ids=body.return_token_ids,
            index=index,
            choices=num_choices,
            n=body.n,
            logprobs=body.num_logprobs,
            prompt_logprobs=body.prompt_logprobs,
            echo=echo,
            no_answer=body.max_tokens == 0,
            keep_stop=body.include_stop_str_in_output,
            token_names=body.return_tokens_as_token_ids,
            tools=[tool.function.name for tool in body.usable_tools],
            all_tokens=not body.skip_special_tokens,
        )
