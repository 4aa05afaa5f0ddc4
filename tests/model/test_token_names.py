"""Single tokens as text and bytes, of byte-level and of SentencePiece vocabularies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine.model.token_names import TokenNames


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: n for n, one in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


BYTES = byte_level()


@given(st.text(max_size=20))
def test_the_bytes_of_all_tokens_are_those_of_the_text(text: str) -> None:
    names = TokenNames(BYTES)
    ids = BYTES.encode(text).ids
    assert b"".join(names.bytes(one) for one in ids) == text.encode()


def test_special_tokens_have_their_name_and_strangers_none() -> None:
    names = TokenNames(BYTES)
    assert names.text(256) == "<|end|>"
    assert (names.bytes(257), names.text(257)) == (b"", "")


@pytest.mark.parametrize(
    ("piece", "wanted"),
    [("\u2581word", b" word"), ("<0xE2>", b"\xe2"), ("end", b"end"), ("<0xZZ>", b"<0xZZ>")],
)
def test_sentencepiece_spaces_and_bytes(piece: str, wanted: bytes) -> None:
    tokenizer = Tokenizer(models.BPE(vocab={piece: 0}, merges=[]))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    assert TokenNames(tokenizer).bytes(0) == wanted
