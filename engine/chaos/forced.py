"""Teacher forcing: could the model have said each token of an answer behind those before it?

Without ``model.bits=schedule`` the batch and the chunks change the last bits of a logit, and where
two tokens are nearly even, the answer. So an answer is not compared with another: one undisturbed
model reads it at once, and at every position the token that was said must be about the best.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection

from engine.build import build_pool, layout_of
from engine.build_attention import attention_parts, load_model
from engine.chaos.clients import Answer
from engine.chaos.oracle import Context, pieces_of
from engine.config import Config
from engine.core import BlockRef, Plan, Span
from engine.model.tokenizer import Tokenizer
from engine.registry import construct

Ids = tuple[int, ...]

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.006}
"""How far below the best a right token's logit may lie, as a share of the best's size, by dtype.

Measured with SmolLM2 (150 positions, chunks of 150, 32 and 1): other chunks move a logit by up to
0.045 of the best in bfloat16, whose 8 bits are rounded in each of 30 layers, and by 5e-6 in
float32. float16 has 3 bits more than bfloat16. A token at random lies below by 0.7 and more.
"""


def said(told_ids: Mapping[int, Sequence[int]], num_tokens: int) -> tuple[Ids, int]:
    """An answer's tokens, told one an event, numbered from 1; and how many are not told so.

    If any are missing, doubled or too many, what follows cannot be judged: no tokens then.
    """
    wanted = set(range(1, num_tokens + 1))
    numbers = wanted | told_ids.keys()
    num_wrong = sum(len(told_ids.get(at, ())) != (at in wanted) for at in numbers)
    return () if num_wrong else tuple(told_ids[at][0] for at in sorted(wanted)), num_wrong


def questions(
    answers: Iterable[Answer], tokenizer: Tokenizer, num_tokens: int
) -> dict[tuple[Ids, Ids], list[Answer]]:
    """(prompt, tokens) of all finished answers, each once -> who got them.

    What is wrong with an answer's form or its text is counted here.
    """
    asked: dict[tuple[Ids, Ids], list[Answer]] = {}
    for answer in answers:
        if not answer.finished:
            continue
        ids, answer.num_wrong = said(answer.told_ids, num_tokens)
        if not ids:
            continue
        text = Context(list(answer.prompt_ids), pieces_of(tokenizer, ids))
        answer.num_wrong = text.num_wrong(answer.told)
        asked.setdefault((answer.prompt_ids, ids), []).append(answer)
    return asked


def teach(config: Config, asked: Sequence[tuple[Ids, Ids]], pipe: Connection) -> int:
    """A process: reads all answers and sends {"done"} and then {"wrong"}, the wrong in each."""
    import torch

    torch.set_num_threads(config.threads)
    teacher = Teacher(config, max((len(prompt) + len(ids) for prompt, ids in asked), default=1))
    wrong = []
    for prompt_ids, answer_ids in asked:
        wrong.append(len(teacher.wrong(prompt_ids, answer_ids)))
        pipe.send({"done": len(wrong)})
    teacher.close()
    pipe.send({"wrong": wrong})
    return 0


class Teacher:
    """The recipe's model over a pool of its own, with nothing else in its steps."""

    def __init__(self, config: Config, longest: int) -> None:
        """``longest``: tokens of the longest context with its answer."""
        checkpoint = load_model(config)
        self._tolerance = TOLERANCE[config.model.dtype]
        shape = checkpoint.config.shape
        self._model = checkpoint.model
        self._layout = layout_of(config, shape)
        num_blocks = self._layout.blocks_for(longest)
        small = replace(config, pool=replace(config.pool, num_blocks=num_blocks, sizes=[]))
        self._pool = build_pool(small, self._layout)
        _, _, local, options = attention_parts(config)
        self._backend = construct(
            local,
            options,
            shape=shape,
            layout=self._layout,
            pool=self._pool,
            num_threads=config.threads,
        )

    def wrong(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> list[int]:
        """Indexes of the answer's tokens that no rounding explains."""
        gaps = self.gaps(prompt_ids, answer_ids)
        return [at for at, gap in enumerate(gaps) if not gap <= self._tolerance]

    def gaps(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> list[float]:
        """For each token of the answer: (best logit - its own) / size of the best."""
        import torch

        ids = [*prompt_ids, *answer_ids][:-1]
        table = tuple(BlockRef(0, block) for block in range(self._layout.blocks_for(len(ids))))
        plan = Plan(1, tuple(ids), (Span(1, 0, len(ids), 0, table, 1),))
        said = torch.arange(len(prompt_ids) - 1, len(ids))
        with torch.inference_mode():
            self._backend.begin(plan)
            logits_TV = self._model.forward(
                torch.tensor(ids), torch.arange(len(ids)), said, self._backend
            )
            self._backend.end()
            best_T = logits_TV.max(-1).values
            own_T = logits_TV.gather(-1, torch.tensor(answer_ids)[:, None])[:, 0]
            gaps: list[float] = ((best_T - own_T) / best_T.abs().clamp(min=1.0)).tolist()
        return gaps

    def close(self) -> None:
        self._pool.close()
