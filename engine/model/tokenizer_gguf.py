"""A byte-level BPE tokenizer from the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from engine.errors import CheckpointError

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTROL, _USER_DEFINED = 3, 4
"""token types"""


def byte_pair_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer; CheckpointError names a kind that is not supported or a missing key."""
    model = metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise CheckpointError(f"GGUF tokenizer {model!r} is not supported, only 'gpt2' (BPE) is")
    pre = metadata.get("tokenizer.ggml.pre")
    before = _pre_tokenizers().get(str(pre))
    if before is None:
        known = ", ".join(_pre_tokenizers())
        raise CheckpointError(f"GGUF pre-tokenizer {pre!r} is not supported ({known} are)")
    missing = [key for key in ("tokens", "merges") if f"tokenizer.ggml.{key}" not in metadata]
    if missing:
        raise CheckpointError(f"the GGUF metadata has no tokenizer.ggml.{missing[0]}")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    try:
        bpe = models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges,
            ignore_merges=pre == "llama-bpe",
        )
    except Exception as error:  # the library raises bare Exception for every fault
        raise CheckpointError(f"the GGUF tokenizer is not valid: {error}") from error
    tokenizer = Tokenizer(bpe)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [token for token, found in zip(tokens, kinds, strict=False) if found == kind]
        tokenizer.add_tokens([AddedToken(t, special=special, normalized=False) for t in added])
    if metadata.get("tokenizer.ggml.add_bos_token", pre == "llama-bpe"):
        bos_id = metadata["tokenizer.ggml.bos_token_id"]
        bos = tokens[bos_id]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, bos_id)]
        )
    return tokenizer


def _pre_tokenizers() -> dict[str, PreTokenizer]:
    def words(digits: str) -> PreTokenizer:
        split = Split(Regex(_WORDS % digits), "isolated")
        return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])

    gpt2 = ByteLevel(add_prefix_space=False, use_regex=True)
    return {
        "smollm": Sequence([Digits(individual_digits=True), gpt2]),
        "llama-bpe": words(r"\p{N}{1,3}"),
        "qwen2": words(r"\p{N}"),
    }
