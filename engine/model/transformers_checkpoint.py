"""Folders that the library ``transformers`` runs: their shape, what is refused, and loading.

``describe`` reads config.json only; torch and transformers are imported by ``load`` alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.core import ITEM_BYTES, ModelShape
from engine.errors import CheckpointError, ConfigError
from engine.model.huggingface import HuggingFaceFolder, read_json

if TYPE_CHECKING:
    from engine.model.tokenizer import Tokenizer
    from engine.model.transformers_model import TransformersModel

TEXT_CONFIGS = ("text_config", "llm_config", "language_config")
RECURRENT_KEYS = ("mamba_", "ssm_", "linear_key_", "linear_num_", "conv_l_cache", "lru_width")


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersConfig:
    """What the engine must know of such a model; the library keeps the rest."""

    shape: ModelShape


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformersCheckpoint:
    """A model of the library, ready to run."""

    config: TransformersConfig
    model: TransformersModel
    tokenizer: Tokenizer | None
    """None when the folder has no tokenizer.json"""
    eos_ids: tuple[int, ...]
    device: str = "cpu"

    @property
    def identity(self) -> str:
        """Equal for models whose keys are the same (model/identity.py)."""
        from engine.model.identity import identity

        model = self.model.library_model
        return identity(model.config.to_json_string(), model.state_dict())

    @classmethod
    def load(cls, path: str, dtype: str) -> TransformersCheckpoint:
        """Load a Hugging Face folder in float32, bfloat16 or float16; code in it is never run.

        Raises CheckpointError when files are missing or the attention contract lacks a term.
        """
        if dtype not in ITEM_BYTES:
            raise CheckpointError(f"dtype {dtype!r} is not one of {', '.join(ITEM_BYTES)}")
        config = describe(path)
        from engine.model import transformers_model

        folder = Path(path).expanduser()
        library_model = transformers_model.from_folder(folder, dtype)
        return cls(
            config=config,
            model=transformers_model.TransformersModel(library_model, config.shape),
            tokenizer=load_tokenizer(path),
            eos_ids=HuggingFaceFolder(folder).eos_ids,
        )


def describe(path: str) -> TransformersConfig:
    """The shape alone, from config.json; refuses what that file already shows."""
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(
            "model.library=transformers needs that package: pip install 'lendkv[transformers]'"
        )
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f"model {path!r} is not a folder; the transformers library needs a Hugging Face folder "
            "with config.json and safetensors files"
        )
    raw = read_json(folder / "config.json")
    refuse_unsupported(raw)
    text = next((raw[key] for key in TEXT_CONFIGS if isinstance(raw.get(key), dict)), raw)
    refuse_unsupported(text)
    return TransformersConfig(shape=_shape(text))


def load_tokenizer(path: str) -> Tokenizer | None:
    """The tokenizer alone, without torch; None when the folder has no tokenizer.json."""
    from engine.model.tokenizer import Tokenizer

    return Tokenizer.from_huggingface(Path(path).expanduser())


def refuse_unsupported(config: Mapping[str, Any]) -> None:
    """CheckpointError when a key of a model's config asks for more than plain causal attention."""
    if reason := _unsupported(config):
        raise CheckpointError(f"this model is not supported: {reason}")


def window_in_use(window: Any, max_positions: int) -> bool:
    """Whether a sliding window hides any key; one as long as the model's positions does not."""
    return window is not None and window is not False and 0 <= int(window) < max_positions


def _unsupported(config: Mapping[str, Any]) -> str | None:
    kind = config.get("model_type")
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        return f"quantization_config ({method}) is in use, only float weights run"
    if config.get("is_encoder_decoder"):
        return f"{kind} has an encoder and cross attention, only decoders run"
    if config.get("add_cross_attention") or config.get("cross_attention_layers"):
        return f"{kind} has cross attention, only causal self-attention runs"
    if rank := config.get("kv_lora_rank"):
        return f"multi-head latent attention (MLA, kv_lora_rank = {rank}) is not supported"
    for key in config:
        if key.lower().startswith(RECURRENT_KEYS) and config[key]:
            return f"state-space or linear layers ({key} = {config[key]!r}) are not supported"
    if cap := config.get("attn_logit_softcapping"):
        return f"soft-capping of attention scores (attn_logit_softcapping = {cap}) is in use"
    nested = config.get("attn_config")
    if (
        config.get("alibi")
        or kind == "bloom"
        or (isinstance(nested, dict) and nested.get("alibi"))
        or config.get("relative_attention_num_buckets")
        or str(config.get("position_embedding_type")).startswith("relative")
    ):
        return f"{kind} adds a position bias (alibi or relative) to attention scores"
    if config.get("use_bidirectional_attention"):
        return "use_bidirectional_attention is set, only causal attention runs"
    if shared := config.get("num_kv_shared_layers"):
        return f"{shared} layers share the keys and values of others (num_kv_shared_layers)"
    return _windowed(config) or _rescaled(config)


def _windowed(config: Mapping[str, Any]) -> str | None:
    """Why some layer does not see all keys, if the config tells."""
    positions = _integer(config, "max_position_embeddings", default=0) or 1 << 62
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    sliding = window_in_use(window, positions)
    if kinds is None:
        used = sliding and config.get("use_sliding_window", True)
    else:
        others = sorted({str(k) for k in kinds} - {"full_attention", "sliding_attention"})
        if others:
            return f"layers of type {', '.join(others)} are in use, only full_attention runs"
        used = "sliding_attention" in kinds and (sliding or window is None)
    if used:
        return f"sliding window attention ({window} positions) is in use, only full attention runs"
    return None


def _rescaled(config: Mapping[str, Any]) -> str | None:
    """Why keys of one position would differ from step to step, if the config tells."""
    tables = [config.get("rope_parameters"), config.get("rope_scaling")]
    for rope in tables + [v for t in tables if isinstance(t, dict) for v in t.values()]:
        if isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) == "longrope":
            return "rope scaling 'longrope' changes all keys when a sequence of the batch is long"
    return None


def _shape(config: Mapping[str, Any]) -> ModelShape:
    heads = _integer(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
    hidden = _integer(config, "hidden_size", "n_embd", "d_model", default=0)
    single = bool(config.get("multi_query"))
    kv_heads = _integer(config, "num_key_value_heads", default=1 if single else heads)
    shape = ModelShape(
        num_layers=_integer(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_integer(config, "head_dim", default=hidden // max(heads, 1)),
        vocab_size=_integer(config, "vocab_size"),
        max_positions=_integer(
            config, "max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"
        ),
    )
    sizes = (shape.num_layers, heads, kv_heads, shape.head_dim, shape.vocab_size)
    if min(*sizes, shape.max_positions) < 1 or heads % kv_heads:
        raise CheckpointError(
            f"config.json gives {shape}: sizes must be at least 1 and query heads a multiple of "
            "KV heads"
        )
    return shape


def _integer(config: Mapping[str, Any], *keys: str, default: int | None = None) -> int:
    """The first of the keys that is not null; model types call the same size differently."""
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise CheckpointError(f"config.json: {key} = {value!r} is not an integer")
        return value
    if default is None:
        raise CheckpointError(f"config.json has no {keys[0]}")
    return default
