"""The verb ``generate``: one prompt through the cluster, its answer, and where its context lay."""

import json
import sys
from collections import Counter
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from engine.client import Answer, Client
from engine.config import Component, Config, recipe_path
from engine.core import MAX_SEED, SamplingParams
from engine.errors import ConfigError
from engine.model.checkpoint import require_tokenizer
from engine.model.tokenizer import Tokenizer
from engine.picture import PoolUse, picture
from engine.printed import Printed
from engine.progress_bar import progress_bar


class Generate:
    """Runs as the frontend process of rank 0."""

    def __init__(self, config: Config, recipe: str | None, *, as_json: bool) -> None:
        self._config = config
        self._recipe = recipe
        self._as_json = as_json
        self._console = Console(stderr=True)

    def __call__(self, pipe: Connection, planner: str, key: bytes) -> int:
        tokenizer, prompt_ids = self._prompt()
        client = Client(planner, key)
        try:
            answer = self._complete(client, tokenizer, prompt_ids)
        finally:  # also when the request is refused: nobody else would tell the others to leave
            client.goodbye()
        single_ids = self._single(prompt_ids) if self._compares else None
        self._show(answer, tokenizer, prompt_ids, single_ids)
        return 0 if single_ids is None or single_ids == answer.token_ids else 1

    @property
    def _compares(self) -> bool:
        """Sums over ranks are rounded otherwise: in float32 that changes no token, else it may."""
        config = self._config
        return config.generate.compare and (config.tp == 1 or config.model.dtype == "float32")

    @property
    def sampling(self) -> SamplingParams:
        wanted = self._config.generate
        return SamplingParams(
            max_tokens=wanted.max_tokens,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            top_k=max(wanted.top_k, 0),
            seed=wanted.seed % MAX_SEED,
            ignore_eos=wanted.ignore_eos,
        )

    def _prompt(self) -> tuple[Tokenizer, list[int]]:
        wanted = self._config.generate
        model = self._config.model
        tokenizer = require_tokenizer(model.path, library=model.library)
        text = read_prompt(self._config, self._recipe)
        if wanted.chat and tokenizer.template is not None:
            return tokenizer, tokenizer.chat([{"role": "user", "content": text}])
        return tokenizer, tokenizer.encode(text)

    def _complete(self, client: Client, tokenizer: Tokenizer, prompt_ids: list[int]) -> Answer:
        config = self._config
        text = tokenizer.stream()
        with progress_bar(self._console) as bars:
            bar = bars.add_task("starting instances", total=config.instances)
            client.wait_ready(
                config.instances, config.cluster.start_s, lambda n: bars.update(bar, completed=n)
            )
            bar = bars.add_task("prefill, tokens", total=len(prompt_ids))
            answer = client.complete(
                prompt_ids,
                self.sampling,
                on_token=lambda token: self._say(text.push(token), bars),
                on_prefill=lambda done, _total: bars.update(bar, completed=done),
            )
        self._say(text.flush() + "\n", None)
        return answer

    def _say(self, text: str, bars: Progress | None) -> None:
        """Stream the answer; the bars are done by then and must not be drawn over it."""
        if bars is not None and bars.live.is_started:
            bars.stop()
        if not self._as_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    def _single(self, prompt_ids: list[int]) -> list[int]:
        """The same request on one big instance in this process, nothing lent."""
        import torch

        from engine.llm import LLM

        config = self._config
        torch.set_num_threads(config.threads)
        num_blocks = -(-(len(prompt_ids) + config.generate.max_tokens) // config.pool.block_tokens)
        num_blocks += int(config.attention.options.get("staging_blocks", 0))
        big = replace(
            config,
            instances=1,
            tp=1,
            placement=Component(name="local_only"),
            pool=replace(
                config.pool, num_blocks=num_blocks + config.scheduler.grow_blocks + 1, memory=""
            ),
        )
        llm = LLM(big)
        with progress_bar(self._console) as bars:
            total = len(prompt_ids) + config.generate.max_tokens
            bar = bars.add_task("the same on one big instance, tokens", total=total)

            def on_message(_request_id: str, message: object) -> None:
                done = getattr(message, "num_done", None)
                bars.update(bar, **({"completed": done} if done else {"advance": 1}))

            llm.on_message = on_message
            (completion,) = llm.generate([prompt_ids], self.sampling)
        return completion.token_ids

    def _show(
        self,
        answer: Answer,
        tokenizer: Tokenizer,
        prompt_ids: list[int],
        single_ids: list[int] | None,
    ) -> None:
        report, num_tokens = answer.report, len(answer.token_ids)
        if self._as_json:
            facts = {
                "text": tokenizer.decode(answer.token_ids),
                "token_ids": answer.token_ids,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": len(prompt_ids),
                "kv_blocks_by_instance": {
                    str(i): n for i, n in sorted(Counter(report.holders).items())
                },
                "pool_blocks": answer.members[0].num_blocks,
                "block_tokens": self._config.pool.block_tokens,
                "query_bytes": report.query_bytes,
                "partial_bytes": report.partial_bytes,
                "moved_bytes": report.moved_bytes,
                "kv_bytes_avoided": report.kv_bytes_avoided,
                "ways": {way: n for way, n in report.steps_by_way.items() if n},
                "recomputed_tokens": report.recomputed_tokens,
                "ttft_s": round(answer.ttft_s, 4),
                "tpot_ms": round(answer.tpot_ms, 3),
                "equal_to_single": None if single_ids is None else single_ids == answer.token_ids,
            }
            print(json.dumps(facts))
            return
        out = Printed()
        out.print(
            picture(
                report.holders,
                [PoolUse(m.instance, m.num_blocks, m.num_free, m.num_lent) for m in answer.members],
                owner=0,
                block_tokens=self._config.pool.block_tokens,
                query_bytes=report.query_bytes,
                partial_bytes=report.partial_bytes,
                moved_bytes=report.moved_bytes,
                kv_bytes_avoided=report.kv_bytes_avoided,
            )
        )
        out.print(
            f"prompt {len(prompt_ids)} tokens, first token after {answer.ttft_s:.1f} s, "
            f"then {answer.tpot_ms:.0f} ms a token",
            highlight=False,
        )
        if single_ids is not None:
            pairs = zip(answer.token_ids, single_ids, strict=False)
            equal = sum(1 for ours, theirs in pairs if ours == theirs)
            if len(single_ids) != num_tokens:
                equal = min(equal, num_tokens - 1)
            style = "bold green" if equal == num_tokens else "bold red"
            out.print(f"tokens equal to one big instance: {equal}/{num_tokens}", style=style)


def read_prompt(config: Config, recipe: str | None) -> str:
    """``generate.prompt`` or the text of its file; ConfigError when there is none."""
    text, name = config.generate.prompt, config.generate.prompt_file
    if name:
        path: Path = recipe_path(recipe, name)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"the prompt file {name!r} cannot be read: {reason}") from error
    if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError("the prompt has bytes that are not UTF-8; give it as UTF-8")
    if not text.strip():
        raise ConfigError(
            "there is no prompt: give --prompt TEXT, --prompt-file FILE or generate.prompt=TEXT"
        )
    return text
