"""Costs: the parts of a step's time on one instance, by roofline or as measured.

linear     weights are read once, or rows are multiplied: whichever takes longer
attention  keys are read once, or rows meet keys: whichever takes longer
overhead   what no batch makes cheaper
"""

from abc import ABC, abstractmethod

import numpy as np

from engine.sim.hardware.model import Model
from engine.sim.hardware.profile import Device, Measured
from engine.sim.hardware.topology import Topology


class Costs(ABC):
    """Seconds of one step, all layers together."""

    @abstractmethod
    def linear_s(self, num_rows: int, num_sampled: int) -> float:
        """All that is not attention; ``num_sampled`` rows go through the head."""

    @abstractmethod
    def attention_s(self, read_keys: float, pairs: float) -> float:
        """Reading so many keys, each once, for so many pairs of a query row and a key."""


class Roofline(Costs):
    """From a device's constants and a model's sizes, split over ``tp`` ranks."""

    def __init__(self, device: Device, model: Model, topology: Topology) -> None:
        self._model = model
        self._device = device
        self._topology = topology
        self._bandwidth = device.bandwidth * device.bandwidth_share
        self._tp = topology.tp

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
        model, device = self._model, self._device
        kv_ranks = min(self._tp, model.num_kv_heads)  # more ranks than KV heads hold copies
        read_s = read_keys * model.kv_layer_bytes / kv_ranks / self._bandwidth
        flops = 4 * pairs * model.num_heads * model.head_dim / self._tp
        return model.num_layers * max(read_s, flops / (device.flops * device.attention_flops_share))

    def _matrix_s(self, parameters: int, num_rows: int) -> float:
        device = self._device
        read_s = parameters / self._tp * self._model.item_bytes / self._bandwidth
        flops = 2 * parameters / self._tp * (num_rows + device.half_rows)
        return max(read_s, flops / (device.flops * device.flops_share))


class Timed(Costs):
    """From steps that were timed on a machine: holds for the model they were timed with."""

    def __init__(self, measured: Measured) -> None:
        self._rows = np.array(measured.rows)
        self._seconds = np.array(measured.rows_s)
        self._read_key_s = measured.read_key_s
        self._pair_s = measured.pair_s

    def linear_s(self, num_rows: int, num_sampled: int) -> float:
        """Beyond the last measured row on with its last slope."""
        if not num_rows:
            return 0.0
        rows, seconds = self._rows, self._seconds
        if num_rows > rows[-1] and len(rows) > 1:
            slope = (seconds[-1] - seconds[-2]) / (rows[-1] - rows[-2])
            return float(seconds[-1] + max(slope, 0.0) * (num_rows - rows[-1]))
        return float(np.interp(num_rows, rows, seconds))

    def attention_s(self, read_keys: float, pairs: float) -> float:
        """Decodes read each key for one row, so their pairs are in ``read_key_s``."""
        return read_keys * self._read_key_s + max(0.0, pairs - read_keys) * self._pair_s
