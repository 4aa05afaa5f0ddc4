"""Costs: the parts of a step's time on one instance, by roofline or as measured.

linear     weights are read once, or rows are multiplied: whichever takes longer
attention  keys are read once, or rows meet keys: whichever takes longer
overhead   what no batch makes cheaper
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from engine.sim.hardware.model import Model
from engine.sim.hardware.profile import Device, Measured
from engine.sim.hardware.topology import Topology

Values = NDArray[np.float64]


class Costs(ABC):
    """Seconds of one step, all layers together."""

    @abstractmethod
    def linear_s(self, num_rows: int, num_sampled: int) -> float:
        """All that is not attention; ``num_sampled`` rows go through the head."""

    @abstractmethod
    def attention_s(self, read_keys: float, pairs: float) -> float:
        """Reading so many keys, each once, for so many pairs of a query row and a key."""

    @abstractmethod
    def told(self, num_rows: int, read_keys: float) -> list[str]:
        """The arithmetic of a decode step of so many rows that reads so many keys, in words."""


class Roofline(Costs):
    """From a device's constants and a model's sizes, split over ``tp`` ranks."""

    def __init__(self, device: Device, model: Model, topology: Topology) -> None:
        self._model = model
        self._device = device
        self._topology = topology
        self._bandwidth = device.bandwidth * device.bandwidth_share
        self._tp = topology.tp
        self._kv_layer_bytes = model.kv_layer_bytes
        self._kv_ranks = min(topology.tp, model.num_kv_heads)
        """more ranks than KV heads hold copies"""
        self._attention_flops = device.flops * device.attention_flops_share

    def linear_s(self, num_rows: int, num_sampled: int) -> float:
        if not num_rows:
            return 0.0
        model, device = self._model, self._device
        layer_s = self._matrix_s(model.layer_parameters, num_rows) + device.layer_s
        if self._tp > 1:
            num_bytes = num_rows * model.hidden_size * model.item_bytes
            layer_s += 2 * self._topology.all_reduce_s(num_bytes)
        head_s = self._matrix_s(model.head_parameters, num_sampled) if num_sampled else 0.0
        return model.num_layers * layer_s + head_s + device.step_s

    def attention_s(self, read_keys: float, pairs: float) -> float:
        model = self._model
        read_s = read_keys * self._kv_layer_bytes / self._kv_ranks / self._bandwidth
        multiply_s = 4 * pairs * model.num_heads * model.head_dim / self._tp / self._attention_flops
        return model.num_layers * (read_s if read_s > multiply_s else multiply_s)

    def told(self, num_rows: int, read_keys: float) -> list[str]:
        model, device, tp = self._model, self._device, self._tp
        parameters, item = model.layer_parameters, model.item_bytes
        rate = f"({device.bandwidth:.4g} x {device.bandwidth_share:g} bytes/s)"
        read_s, multiply_s = self._matrix_times(parameters, num_rows)
        layer = (
            f"{max(read_s, multiply_s) * 1e6:.2f} us + {device.layer_s * 1e6:g} us of small kernels"
        )
        if tp > 1:
            num_bytes = num_rows * model.hidden_size * item
            reduce_s = self._topology.all_reduce_s(num_bytes)
            layer += f" + 2 all-reduces of {num_bytes:,} bytes, {reduce_s * 1e6:.2f} us each"
        head_s = self._matrix_s(model.head_parameters, num_rows)
        layers_s = self.linear_s(num_rows, num_rows) - head_s - device.step_s
        return [
            f"a layer's matrices: {parameters:,} x {item} bytes / {tp} devices / {rate} = "
            f"{read_s * 1e6:.2f} us to read, 2 x {parameters:,} / {tp} x ({num_rows} + "
            f"{device.half_rows:g}) rows / ({device.flops:.4g} x {device.flops_share:g} "
            f"operations/s) = {multiply_s * 1e6:.2f} us to multiply: the longer counts",
            f"a layer: {layer} = {layers_s / model.num_layers * 1e6:.2f} us",
            f"a step without keys: {model.num_layers} layers = {layers_s * 1e3:.3f} ms + "
            f"{head_s * 1e3:.3f} ms for the head + {device.step_s * 1e3:g} ms beside it = "
            f"{self.linear_s(num_rows, num_rows) * 1e3:.3f} ms",
            f"keys of the step: {read_keys:,.0f} x {model.kv_token_bytes:,} bytes / "
            f"{self._kv_ranks} devices / {rate} = "
            f"{self.attention_s(read_keys, read_keys) * 1e3:.3f} ms",
        ]

    def _matrix_s(self, parameters: int, num_rows: int) -> float:
        return max(self._matrix_times(parameters, num_rows))

    def _matrix_times(self, parameters: int, num_rows: int) -> tuple[float, float]:
        """To read the weights, and to multiply the rows."""
        device = self._device
        read_s = parameters / self._tp * self._model.item_bytes / self._bandwidth
        flops = 2 * parameters / self._tp * (num_rows + device.half_rows)
        return read_s, flops / (device.flops * device.flops_share)


class Timed(Costs):
    """From steps that were timed on a machine: holds for the model they were timed with."""

    def __init__(self, measured: Measured) -> None:
        self._rows = np.array(measured.rows), np.array(measured.rows_s)
        self._sampled = np.array(measured.batches), np.array(measured.batches_s)
        self._read_key_s = measured.read_key_s
        self._pair_s = measured.pair_s

    def linear_s(self, num_rows: int, num_sampled: int) -> float:
        """Beyond the last measured row on with its last slope."""
        if not num_rows:
            return 0.0
        sampled_s = _between(*self._sampled, num_sampled) if num_sampled > 1 else 0.0
        return _between(*self._rows, num_rows) + sampled_s

    def attention_s(self, read_keys: float, pairs: float) -> float:
        """Decodes read each key for one row, so their pairs are in ``read_key_s``."""
        return read_keys * self._read_key_s + max(0.0, pairs - read_keys) * self._pair_s

    def told(self, num_rows: int, read_keys: float) -> list[str]:
        return [
            f"a step of {num_rows} rows without keys: measured, "
            f"{self.linear_s(num_rows, num_rows) * 1e3:.3f} ms",
            f"keys of the step: {read_keys:,.0f} x {self._read_key_s * 1e9:.1f} ns, measured, = "
            f"{self.attention_s(read_keys, read_keys) * 1e3:.3f} ms",
        ]


def _between(at: Values, seconds: Values, count: int) -> float:
    """Linear between what was measured, and beyond the last on with its last slope."""
    if count > at[-1] and len(at) > 1:
        slope = (seconds[-1] - seconds[-2]) / (at[-1] - at[-2])
        return float(seconds[-1] + max(float(slope), 0.0) * (count - at[-1]))
    return float(np.interp(count, at, seconds))
