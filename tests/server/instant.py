"""The application over a gateway without sockets that answers at once, and how to ask it."""

import asyncio
from collections import Counter

from served import byte_tokenizer, httpx

from engine.core import Score
from engine.model.tokenizer import Tokenizer
from engine.protocol import Member, PromptScores, Submit, Tokens, View
from engine.scheduler.request_table import RequestTable
from engine.server.app import build_app
from engine.server.completions import Completions
from engine.server.gateway import Gateway
from engine.server.limits import NO_LIMITS
from engine.server.metrics import Metrics
from engine.server.teller import Teller
from engine.server.tools.formats import format_of

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ m.name }}\n{% endfor %}"


def score(token, num_top):
    """A Score that tells whose it is."""
    return Score(-token / 8, 3, tuple((250 - n, -n / 8) for n in range(num_top)))


class Shown:
    """Views without a planner."""

    def __init__(self):
        self.view = View([], [])

    async def look(self):
        return self.view


class InstantGateway(Gateway):
    """Answers every request at once, with these tokens. No sockets, no journal."""

    def __init__(self, ids=(65, 250, 66), reason="length"):
        self.ids, self.reason = list(ids), reason
        self.table = RequestTable(block_tokens=4)
        self.members = [Member(0, 1, "step", 9, 9, 0, 0)]
        self.table.on_members(self.members, 0.0)
        self.terms, self._news, self._expected, self._attending = {}, {}, {}, Counter()
        self.closes_at, self.is_over, self.views = None, False, Shown()

    def submit(self, request, terms):
        self.terms[request.request_id] = terms
        entry = self.table.add(request, 0.0)
        for effect in self.table.take_effects():
            assert isinstance(effect.message, Submit)
            attempt = effect.message.request
            assert attempt.sampling.max_tokens > 0
            ids = self.ids[: attempt.sampling.max_tokens]
            name, sampling = attempt.request_id, attempt.sampling
            if sampling.prompt_logprobs is not None:
                scores = [
                    score(token, sampling.prompt_logprobs) for token in request.prompt_ids[1:]
                ]
                self.table.on_message(PromptScores(name, 0, scores), 0.0)
            scores = [score(token, sampling.logprobs or 0) for token in ids]
            scores = scores if sampling.logprobs is not None else []
            self.table.on_message(Tokens(name, 0, ids, self.reason, scores), 0.0)
        return entry

    def _pump(self, now):
        self.table.take_effects()


def build(
    gateway=None, limits=NO_LIMITS, defaults=None, max_positions=40, vocab_size=256, **options
):
    tokenizer = Tokenizer(byte_tokenizer(), TEMPLATE)
    gateway = gateway or InstantGateway()
    tool_format = format_of(tokenizer.template, "auto")
    completions = Completions(
        gateway,
        tokenizer,
        model="tiny",
        max_positions=max_positions,
        vocab_size=vocab_size,
        limits=limits,
        defaults=defaults,
        tool_format=tool_format,
    )
    options = {"model": "tiny", "max_body_bytes": 4000} | options | {"max_positions": max_positions}
    teller = Teller(gateway, tokenizer, model="tiny", tool_format=tool_format)
    return build_app(gateway, completions, teller, Metrics("tiny"), tokenizer=tokenizer, **options)


def send(app, method, path, content=b"", headers=None):
    async def go():
        transport = httpx.ASGITransport(app=app)  # it raises what the app raises
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers_ = {"content-type": "application/json", **(headers or {})}
            return await client.request(method, path, content=content, headers=headers_)

    return asyncio.run(go())
