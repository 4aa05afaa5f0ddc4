"""Model: the sizes of a decoder that decide how long its steps take and what its cache weighs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.core import BlockLayout
from engine.errors import CheckpointError, ConfigError
from engine.model.checkpoint import EMBEDDED, describe
from engine.model.config import LlamaConfig, from_huggingface
from engine.model.huggingface import read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A dense decoder with gated MLPs and full attention, its numbers stored in 16 bits."""

    num_layers: int
    hidden_size: int
    mlp_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    tied: bool = False
    """the head is the embedding matrix"""
    item_bytes: int = 2

    @property
    def sizes(self) -> list[int]:
        """What tells it from other models whose steps were timed."""
        return [
            self.num_layers,
            self.hidden_size,
            self.num_heads,
            self.num_kv_heads,
            self.head_dim,
            self.vocab_size,
        ]

    @property
    def layer_parameters(self) -> int:
        """Matrices of one layer: query, key, value, output, and the three of the MLP."""
        attention = 2 * (self.num_heads + self.num_kv_heads) * self.head_dim * self.hidden_size
        return attention + 3 * self.hidden_size * self.mlp_size

    @property
    def head_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def weight_bytes(self) -> int:
        """Everything that lies in memory, the embedding with it."""
        tables = self.head_parameters * (1 if self.tied else 2)
        return self.item_bytes * (self.num_layers * self.layer_parameters + tables)

    @property
    def kv_layer_bytes(self) -> int:
        """Keys and values of one token in one layer."""
        return 2 * self.num_kv_heads * self.head_dim * self.item_bytes

    @property
    def kv_token_bytes(self) -> int:
        return self.num_layers * self.kv_layer_bytes

    def layout(self, tokens: int) -> BlockLayout:
        """Of an rBlock of so many tokens."""
        return BlockLayout(
            layers=self.num_layers,
            kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            tokens=tokens,
            dtype="bfloat16",
        )


def _decoder(
    layers: int, hidden: int, mlp: int, heads: int, kv: int, dim: int, vocab: int, positions: int
) -> Model:
    return Model(
        num_layers=layers,
        hidden_size=hidden,
        mlp_size=mlp,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=dim,
        vocab_size=vocab,
        max_positions=positions,
        tied=hidden < 4096,  # true of all that are named here
    )


MODELS: Mapping[str, Model] = {
    # layers, hidden, mlp, heads, kv heads, head dim, vocabulary, positions: from their config.json
    "llama2-7b": _decoder(32, 4096, 11008, 32, 32, 128, 32000, 4096),
    "llama2-13b": _decoder(40, 5120, 13824, 40, 40, 128, 32000, 4096),
    "llama2-70b": _decoder(80, 8192, 28672, 64, 8, 128, 32000, 4096),
    "llama3-8b": _decoder(32, 4096, 14336, 32, 8, 128, 128256, 8192),
    "llama3-70b": _decoder(80, 8192, 28672, 64, 8, 128, 128256, 8192),
    "qwen3-0.6b": _decoder(28, 1024, 3072, 16, 8, 128, 151936, 40960),
    "qwen3-1.7b": _decoder(28, 2048, 6144, 16, 8, 128, 151936, 40960),
    "qwen3-4b": _decoder(36, 2560, 9728, 32, 8, 128, 151936, 40960),
    "qwen3-8b": _decoder(36, 4096, 12288, 32, 8, 128, 151936, 40960),
    "qwen3-14b": _decoder(40, 5120, 17408, 40, 8, 128, 151936, 40960),
    "qwen3-32b": _decoder(64, 5120, 25600, 64, 8, 128, 151936, 40960),
    "smollm2-135m": _decoder(30, 576, 1536, 9, 3, 64, 49152, 8192),
}


def model_of(name: str) -> Model:
    """One of MODELS, or a Hugging Face folder, config.json or .gguf file. Raises ConfigError."""
    if name in MODELS:
        return MODELS[name]
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.exists() and name != EMBEDDED:
        raise ConfigError(
            f"model {name!r} is neither a Hugging Face folder or config.json, nor a .gguf file, "
            f"nor one of {', '.join(MODELS)}"
        )
    try:
        config = from_huggingface(read_json(path)) if path.suffix == ".json" else describe(name)
    except CheckpointError as error:
        raise ConfigError(f"model {name!r}: {error}") from error
    assert isinstance(config, LlamaConfig)
    return Model(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        mlp_size=config.mlp_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        tied=config.tied,
    )
