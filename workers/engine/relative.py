"""DeBERTa's relative positions, taken apart by sample.

A DeBERTa-v2 encoder has one table of relative positions. Every layer projects it once for all samples and repeats the
result, so the gradients that come back to the projections and the table are already sums over samples. While a
`RelativePositions` is entered, each sample reads a copy of its own: the projection is laid out as if every sample's
heads were so many more heads of one sample, which leaves the numbers, the shapes and the memory as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder

Watch = Callable[[nn.Module, Tensor, Any], None]
PROJECTIONS = ("query_proj", "key_proj", "pos_query_proj", "pos_key_proj")


def encoders(model: nn.Module) -> list[Any]:
    """The parts of the model that have such a table."""
    return [part for part in model.modules() if isinstance(part, DebertaV2Encoder) and part.relative_attention]


class RelativePositions:
    """The table of one encoder. `inside` is true while a layer projects it.

    `watch(module, given, output)` is called for each projection, given [rows, positions, width] and output [rows,
    positions, projected]. The squares of the table and its norm are added to `sums` once the last projection's
    gradient came back.
    """

    def __init__(self, encoder: Any, sums: Mapping[int, Tensor], watch: Watch) -> None:
        self.inside = False
        self._table = encoder.rel_embeddings.weight
        self._norm = encoder.LayerNorm if "layer_norm" in encoder.norm_rel_ebd else None
        self._attentions = [layer.attention.self for layer in encoder.layer]
        self._sums, self._watch = sums, watch
        self._handles: list[Any] = []
        self.begin(0)

    def begin(self, rows: int) -> None:
        """The next forward pass has this many samples."""
        self._rows, self._awaited = rows, 0
        self._gradient: Tensor | None = None
        self._used = torch.empty(0, dtype=torch.int64)

    def enter(self) -> None:
        """Give each sample its own copy from now on."""
        for attention in self._attentions:
            attention.disentangled_attention_bias = self._as_heads(attention)
            for name in PROJECTIONS:
                if hasattr(attention, name):
                    self._handles.append(getattr(attention, name).register_forward_hook(self._project))

    def leave(self) -> None:
        """Put the model back as it was."""
        for handle in self._handles:
            handle.remove()
        for attention in self._attentions:
            del attention.disentangled_attention_bias

    def _as_heads(self, attention: Any) -> Callable[..., Tensor]:
        bias = attention.disentangled_attention_bias

        def bias_by_sample(query: Tensor, key: Tensor, places: Tensor, table: Tensor, factor: int) -> Tensor:
            heads = attention.num_attention_heads
            attention.num_attention_heads = query.shape[0]  # samples * heads
            self._used = reached(places, attention.pos_ebd_size)
            self.inside = True
            try:
                found: Tensor = bias(query, key, places, table.detach(), factor)
            finally:
                self.inside = False
                attention.num_attention_heads = heads
            return found

        return bias_by_sample

    def _project(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """output [1, positions, projected] becomes [1, positions, rows * projected]."""
        if not self.inside:
            return None
        count = output.shape[1]
        own: Any = output.detach()[:, self._used].expand(self._rows, -1, -1).requires_grad_(True)
        self._awaited += 1
        own.register_hook(lambda gradient: self._collect(gradient.detach() @ module.weight.detach()))
        self._watch(module, inputs[0].detach()[:, self._used].expand(self._rows, -1, -1), own)
        whole: Tensor = own.new_zeros(count, self._rows, own.shape[-1]).index_copy(0, self._used, own.transpose(0, 1))
        return whole.reshape(1, count, -1)

    def _collect(self, gradient: Tensor) -> None:
        """gradient: [rows, positions, width], what one projection sends back to the (normalised) table."""
        gradient = gradient.to(self._table.device)  # that of a layer, where the model is spread
        self._gradient = gradient if self._gradient is None else self._gradient.add_(gradient)
        self._awaited -= 1
        if self._awaited == 0:
            self._square(self._gradient)
            self._gradient = None

    def _square(self, gradient: Tensor) -> None:
        used = self._used.to(self._table.device)
        given = self._table.detach()[used]
        if self._norm is not None:
            normal = torch.nn.functional.layer_norm(given, self._norm.normalized_shape, eps=self._norm.eps)
            self._add(self._norm.weight, (gradient * normal).sum(1))
            self._add(self._norm.bias, gradient.sum(1))
            gradient = before_norm(self._norm, given, normal, gradient)
        if id(self._table) in self._sums:
            self._sums[id(self._table)].index_add_(0, used, gradient.square().sum(0))

    def _add(self, parameter: Tensor, by_sample: Tensor) -> None:
        """by_sample: [rows, width], the gradients of a vector parameter."""
        if id(parameter) in self._sums:
            self._sums[id(parameter)].add_(by_sample.square().sum(0))


def reached(places: Tensor, span: int) -> Tensor:
    """The rows of the table, int64, that distances as given by `places` look up, forth or back.

    Short texts reach a small part of it; the rest has no gradient and costs nothing.
    """
    both_ways = torch.cat([places.flatten(), -places.flatten()])
    found: Tensor = torch.unique((both_ways + span).clamp(0, 2 * span - 1))
    return found


def before_norm(norm: nn.LayerNorm, given: Tensor, normal: Tensor, gradient: Tensor) -> Tensor:
    """The gradient before a layer norm, [rows, positions, width], from the one after it.

    given, [positions, width], is what the norm reads, normal the same normalised. With h the gradient times the
    norm's weight it is (h - mean(h) - normal * mean(h * normal)) / deviation.
    """
    deviation = (given.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    scaled = gradient * norm.weight.detach()
    along = (scaled * normal).mean(-1, keepdim=True)
    return (scaled - scaled.mean(-1, keepdim=True) - normal * along) / deviation
