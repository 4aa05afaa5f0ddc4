"""TransformersModel: any decoder of the library ``transformers`` with plain causal attention.

The library runs everything but attention, over packed rows that it takes for one sequence; its
AttentionInterface brings queries, keys and values (rotated) here. It keeps no cache. Letters: T
rows, H query heads, K KV heads, D head dimension, N rows whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn

from engine.attention.base import AttentionBackend
from engine.core import ModelShape
from engine.errors import CheckpointError
from engine.model.llama import HEAD_SLICE
from engine.model.transformers_checkpoint import refuse_unsupported, window_in_use

ATTENTION = "lendkv"
"""name in the library's tables; it builds no mask for a name it has no mask function for"""

HARMLESS = {
    "position_ids",
    "cache_position",
    "use_cache",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
}
"""what a model may pass to attention that changes nothing here"""

TERMS = {
    "softcap": "soft-capping of attention scores",
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "position_bias": "a position bias",
    "indices": "sparse attention",
    "block_indices": "sparse attention",
}


class _Attention(Protocol):
    """Attention of one forward pass; query is ``[1, H, T, D]``, the result ``[1, T, H, D]``."""

    def __call__(
        self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> Tensor: ...


_CURRENT: ContextVar[_Attention] = ContextVar("attention of the forward pass that runs here")


def _dispatch(
    layer: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What the library calls: models and threads share the name, never the attention."""
    attend = _CURRENT.get()
    return attend(layer, query, key, value, attention_mask=attention_mask, **options), None


transformers.AttentionInterface.register(ATTENTION, _dispatch)


def from_folder(folder: Path, dtype: str) -> Any:
    """The library's model of a folder; CheckpointError when it is incomplete or needs own code."""
    logging = transformers.utils.logging
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=ATTENTION,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # each config class and converter of the library raises its own
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "trust_remote_code" in str(error):
            text = "it needs Python code of its own folder (auto_map), which is never run"
        raise CheckpointError(f"transformers cannot load {folder}: {text}") from error
    finally:
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    model, info = loaded
    for fault in ("missing_keys", "mismatched_keys"):  # the library would fill in random numbers
        if names := sorted(map(str, info[fault])):
            raise CheckpointError(
                f"{folder}: {len(names)} tensors are {fault.removesuffix('_keys')}, "
                f"the first is {names[0]}"
            )
    return model


class TransformersModel:
    """A model of the library behind ``runner.Model``; made with ``attn_implementation=ATTENTION``.

    Construction refuses a model whose config or whose attention calls ask for more than the
    contract has. ``shape`` is what others have sized memory by.
    """

    def __init__(self, model: Any, shape: ModelShape) -> None:
        self.library_model = model.eval()
        self.shape = shape
        refuse_unsupported(model.config.to_dict())
        refuse_unsupported(model.config.get_text_config(decoder=True).to_dict())
        parameters = inspect.signature(model.forward).parameters
        if "position_ids" not in parameters:
            _refuse(f"{type(model).__name__} takes no position_ids, so its rows cannot be packed")
        self._selects = "logits_to_keep" in parameters
        head = model.get_output_embeddings()
        if type(head) is nn.Linear and head.weight.dtype != torch.float32:
            model.set_output_embeddings(_Float32Head(head))
        self._probe()

    @torch.inference_mode()
    def forward(
        self,
        token_ids_T: Tensor,
        positions_T: Tensor,
        logit_rows: Tensor,
        backend: AttentionBackend,
    ) -> Tensor:
        """Float32 logits ``[N, V]`` of the rows ``logit_rows``, all three int64 vectors."""
        attend = _BackendAttention(backend, self.library_model.dtype)
        return self._run(token_ids_T, positions_T, logit_rows, attend)

    def _run(
        self, token_ids_T: Tensor, positions_T: Tensor, logit_rows: Tensor, attend: _Attention
    ) -> Tensor:
        select = {"logits_to_keep": logit_rows} if self._selects else {}
        token = _CURRENT.set(attend)
        try:
            logits_1NV: Tensor = self.library_model(
                input_ids=token_ids_T[None],
                position_ids=positions_T[None],
                use_cache=False,
                **select,
            ).logits
        finally:
            _CURRENT.reset(token)
        return (logits_1NV[0] if self._selects else logits_1NV[0, logit_rows]).float()

    @torch.inference_mode()
    def _probe(self) -> None:
        """Run one row among others twice: what it is must not depend on where it is packed.

        This catches what no config key tells: layers that mix rows outside attention, positions
        counted by row, attention beside the interface or with terms we lack.
        """
        high = min(9, self.shape.max_positions - 1)
        ids = torch.arange(1, 4) % self.shape.vocab_size
        first, second = _Probe(self.shape), _Probe(self.shape)
        before, after = torch.tensor([high // 2, high]), torch.tensor([high, 0])
        try:
            logits = [
                self._run(ids[:2], before, torch.tensor([1]), first),
                self._run(ids[1:], after, torch.tensor([0]), second),
            ]
        except CheckpointError:
            raise
        except Exception as error:  # whatever an unknown model's own code may raise
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"this model cannot run packed rows: {text}") from error
        if logits[0].shape != (1, self.shape.vocab_size):
            _refuse(f"logits {tuple(logits[0].shape)} where (1, {self.shape.vocab_size}) is wanted")
        first.check_layers()
        loose = {torch.float32: 1e-3}.get(self.library_model.dtype, 5e-2)
        pairs = [(a[1], b[0]) for a, b in zip(first.seen, second.seen, strict=True)]
        for a, b in [*pairs, (logits[0], logits[1])]:
            bound = loose * float(a.nan_to_num(0, 0, 0).abs().max())
            if not torch.allclose(a, b, rtol=0.0, atol=bound, equal_nan=True):
                _refuse("its layers mix tokens outside attention, or count positions by row")


class _BackendAttention:
    """One forward pass over a backend."""

    def __init__(self, backend: AttentionBackend, dtype: torch.dtype) -> None:
        self._backend, self._dtype = backend, dtype

    def __call__(
        self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> Tensor:
        q_THD, k_TKD, v_TKD = (x[0].transpose(0, 1).to(self._dtype) for x in (query, key, value))
        # The backend's scale is 1 / sqrt(D). Where the model's differs, q takes the ratio; it is
        # rounded once more to the model's dtype, as the model's own scores would be.
        scaling, dim = options.get("scaling"), q_THD.shape[-1]
        if scaling is not None and not math.isclose(ratio := scaling * math.sqrt(dim), 1.0):
            q_THD = (q_THD.float() * ratio).to(self._dtype)
        index: Any = layer.layer_idx
        self._backend.write(k_TKD.contiguous(), v_TKD.contiguous(), index)
        pending = self._backend.start(q_THD.contiguous(), index)
        return self._backend.finish(pending).out_THD.to(query)[None]


class _Probe:
    """Looks at what layers ask of attention and answers with the row's own value."""

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self._layers: list[Any] = []
        self.seen: list[Tensor] = []
        """query, key and value of each row, one after another; a tensor for each layer"""

    def __call__(
        self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> Tensor:
        shape, rows = self._shape, 2
        self._layers.append(getattr(layer, "layer_idx", None))
        q_shape = (1, shape.num_heads, rows, shape.head_dim)
        k_shape = (1, shape.num_kv_heads, rows, shape.head_dim)
        found = tuple(tuple(x.shape) for x in (query, key, value))
        if found != (q_shape, k_shape, k_shape):
            _refuse(
                f"query, key and value of layer {self._layers[-1]} are {found}, config.json says "
                f"{(q_shape, k_shape, k_shape)}"
            )
        self._check_options(layer, options)
        flat = [x[0].transpose(0, 1).reshape(rows, -1).float() for x in (query, key, value)]
        self.seen.append(torch.cat(flat, -1))
        return value.repeat_interleave(shape.num_heads // shape.num_kv_heads, 1).transpose(1, 2)

    def _check_options(self, layer: nn.Module, options: dict[str, Any]) -> None:
        causal = options.get("is_causal")
        if not (getattr(layer, "is_causal", True) if causal is None else causal):
            _refuse("its attention is not causal")
        window = options.pop("sliding_window", None)
        if window_in_use(window, self._shape.max_positions):
            _refuse(f"sliding window attention ({window} positions) is in use")
        scaling = options.pop("scaling", None)
        if scaling is not None and not isinstance(scaling, float | int):
            _refuse(
                f"its attention scale is a {type(scaling).__name__}, only a number is supported"
            )
        if options.pop("dropout", 0.0):
            _refuse("its attention drops out weights")
        for name, value in options.items():
            if value is not None and name not in HARMLESS:
                _refuse(f"{TERMS.get(name, 'an unknown attention term')} ({name}) is in use")

    def check_layers(self) -> None:
        if self._layers != list(range(self._shape.num_layers)):
            _refuse(
                f"layers {self._layers} call the library's AttentionInterface, all of "
                f"{self._shape.num_layers} must, once each and in order"
            )


class _Float32Head(nn.Module):
    """A head whose logits are not rounded to the model's dtype (see ``Llama``)."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias

    def forward(self, hidden: Tensor) -> Tensor:
        vocab, size = self.weight.shape
        logits = hidden.new_empty(*hidden.shape[:-1], vocab, dtype=torch.float32)
        step = max(HEAD_SLICE // size, 1)
        wide = hidden.float()
        for start in range(0, vocab, step):
            logits[..., start : start + step] = wide @ self.weight[start : start + step].float().t()
        return logits if self.bias is None else logits + self.bias.float()


def _refuse(reason: str) -> None:
    raise CheckpointError(f"this model is not supported: {reason}")
