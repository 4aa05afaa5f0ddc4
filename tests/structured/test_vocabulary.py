"""The vocabulary that grammars are kept with is that which the library makes of the tokenizer."""

import gc
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from tiny_checkpoint import byte_tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers

from engine.constrained import Constrained
from engine.model.grammar import Compiler
from engine.model.tokenizer import Tokenizer
from engine.server.constraints import Constraints
from engine.server.structured import StructuredOutputs, grammar_of

EOS = 1


def byte_level():
    """Bytes as letters, words that join some of them, and tokens added behind."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ('"', "a"), ("Ġ", "a"), ("Ã", "©"), ("ab", "ab"), ('"', ":")]
    pieces = ["<|end|>", "<|eos|>", *letters, *(left + right for left, right in merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    found = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(["<|end|>", "<|eos|>", "<|late|>"])
    found.add_tokens(["added"])
    return found


def sentencepiece():
    """Spaces as ▁, and bytes by their names where there is no piece."""
    merges = [("a", "b"), ("▁", "a"), ("1", "2"), ('"', "a")]
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*'ab12"{}:,▁[]é', *(left + right for left, right in merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    model = models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>")
    found = tokenizers.Tokenizer(model)
    found.normalizer = normalizers.Replace(" ", "▁")
    found.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    found.add_special_tokens(["<unk>", "</s>"])
    return found


BACKENDS = {"byte level": byte_level(), "SentencePiece": sentencepiece()}
PREPARED = {
    name: LLTokenizer(backend.to_str(), eos_token=[EOS]) for name, backend in BACKENDS.items()
}
WANTED = [
    {"regex": '[ab"é ]*'},
    {"regex": "(abab|aé|added) a"},
    {"json": {"type": "object", "properties": {"ab": {"type": "string"}}, "required": ["ab"]}},
    {"json": {"type": "array", "items": {"type": "integer"}}},
    {"choice": ["abab ab", 'ab":', "<|end|>"]},
]


@pytest.mark.parametrize("name", BACKENDS)
@given(data=st.data())
def test_the_same_tokens_may_come_next(name, data):
    size = BACKENDS[name].get_vocab_size()
    grammar = grammar_of(StructuredOutputs(**data.draw(st.sampled_from(WANTED))))
    compiler = Compiler(lambda: Tokenizer(BACKENDS[name], None), vocab_size=size + 7, eos_ids=[EOS])
    ours = compiler.matcher(grammar)
    theirs = LLMatcher(PREPARED[name], grammar, log_level=0)
    for _ in range(12):
        bits = np.frombuffer(theirs.compute_bitmask(), np.uint8)
        wanted = np.unpackbits(bits, count=size, bitorder="little").nonzero()[0].tolist()
        assert ours.allowed().nonzero()[0].tolist() == wanted
        token = data.draw(st.sampled_from(wanted))
        ended = ours.take(token)
        assert theirs.consume_token(token)
        if ended:
            break


def test_both_processes_prepare_it_before_the_first_request():
    made = []
    tokenizer = Tokenizer(byte_tokenizer(), None)
    compiler = Compiler(lambda: made.append(1) or tokenizer, vocab_size=256)
    constrained = Constrained(compiler)
    constrained.get_ready()
    compiler.matcher(grammar_of(StructuredOutputs(regex="a")))
    assert made == [1]
    constrained.close()
    constraints = Constraints(tokenizer, vocab_size=256, tool_format=None)
    assert constraints._compiler._tokenizer is not None


def test_a_model_without_a_tokenizer_can_start():
    Compiler(lambda: None, vocab_size=256).prepare_early()


def wrappers():
    return [one for one in gc.get_objects() if type(one) is TokenizerWrapper]


def test_the_tokens_are_not_kept_beside_the_librarys_copy():
    before = wrappers()
    compiler = Compiler(lambda: Tokenizer(BACKENDS["byte level"], None), vocab_size=300)
    compiler.prepare()
    ours = [one for one in wrappers() if not any(one is other for other in before)]
    assert [list(one.tokens) for one in ours] == [[]]


def test_a_step_reads_its_tokenizer_before_torch():
    """What reading it frees is torch's then; the other way round it is nobody's."""
    program = (
        "import sys; from types import SimpleNamespace as Of; from engine import roles\n"
        "roles.load_tokenizer = lambda path: sys.exit(0 if 'torch' not in sys.modules else 3)\n"
        "model = Of(library='lendkv', path='smollm2')\n"
        "roles.step(None, Of(config=Of(model=model)), None)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
