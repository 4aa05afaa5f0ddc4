"""AnswerText: from an answer's tokens, as they come, to the text that its client is told."""

from collections.abc import Collection

from engine.model.tokenizer import Tokenizer
from engine.scheduler.entry import Entry
from engine.server.journal import Terms
from engine.server.stops import StopFilter


class AnswerText:
    """``push`` tokens and tell what it returns, until ``stopped``; else ``flush`` at the end."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        entry: Entry,
        terms: Terms,
        eos_ids: Collection[int],
        keep: Collection[int] = (),
    ) -> None:
        """``keep`` are special tokens that are text all the same."""
        self._entry, self._keeps_stop = entry, terms.keep_stop
        sampling = entry.request.sampling
        self._stop_ids = set(sampling.stop_token_ids)
        self._end_ids = self._stop_ids | (set() if sampling.ignore_eos else set(eos_ids))
        self._stream = tokenizer.stream(keep)
        self._stop = StopFilter(terms.stops, keep=terms.keep_stop)
        self._length = len(terms.echo or "")
        self.stop_reason: int | str | None = None
        """the stop string or stop token that ended the answer"""
        self.offsets: list[int] = []
        """where each token's text begins, in characters of the text with what is echoed"""

    @property
    def stopped(self) -> bool:
        """A stop string was seen: nothing more is told."""
        return self._stop.stopped

    def push(self, token_id: int) -> str:
        self.offsets.append(self._length)
        entry, num_known = self._entry, len(self.offsets)
        is_last = entry.finish_reason == "stop" and num_known == len(entry.token_ids)
        if is_last and token_id in self._end_ids:
            self.stop_reason = token_id if token_id in self._stop_ids else None
            if not self._keeps_stop:
                return ""
        text = self._stream.push(token_id)
        self._length += len(text)
        said = self._stop.push(text)
        self.stop_reason = self._stop.found or self.stop_reason
        return said

    def flush(self) -> str:
        """What was held back, for its end could have been the beginning of something."""
        return self._stop.push(self._stream.flush()) + self._stop.flush()
