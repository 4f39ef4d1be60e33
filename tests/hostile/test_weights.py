"""Weights that do not belong to the config, and weights that poison every sum they enter."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence

import pytest

from tests.checkpoint_by_hand import CONFIG, dumped, safetensors, tensors

Refused = Callable[..., set[str]]
TABLE: Mapping[str, Sequence[int]] = {
    "bert.embeddings.word_embeddings.weight": (8, 4), "classifier.weight": (2, 4), "classifier.bias": (2,),
}  # fmt: skip


def without(*names: str) -> dict[str, Sequence[int]]:
    return {name: shape for name, shape in TABLE.items() if name not in names}


CASES: dict[str, tuple[bytes, str]] = {
    "no head": (tensors(without("classifier.weight", "classifier.bias")), "WT-HEAD"),
    "no encoder": (tensors(without("bert.embeddings.word_embeddings.weight") | {"x": (99,)}), "WT-MISSING"),
    "a stranger": (tensors({**TABLE, "payload": (1000,)}), "WT-EXTRA"),
    "language head": (tensors({**TABLE, "cls.predictions.bias": (8,)}), "WT-EXTRA"),
    "other shape": (tensors({**TABLE, "classifier.weight": (4, 2)}), "WT-SHAPE"),
    "other length": (tensors({**TABLE, "classifier.bias": (3,)}), "WT-SHAPE"),
    "NaN": (tensors(TABLE, float("nan")), "WT-NOT-FINITE"),
    "infinite": (tensors(TABLE, float("-inf")), "WT-NOT-FINITE"),
    "old and new name": (tensors({**TABLE, "classifier.gamma": (2, 4)}), "ST-DUPLICATE"),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_weights_that_are_not_those_of_the_config(case: str, good: dict[str, bytes], refused: Refused) -> None:
    content, rule = CASES[case]
    assert refused(good | {"model.safetensors": content}, weights=True) == {rule}


def typed(dtype: str, width: int, last: bytes = b"") -> bytes:
    """The table in another number format, zeros but for the last bytes."""
    rows, place = {}, 0
    for name, shape in TABLE.items():
        length = width * math.prod(shape)
        rows[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + length]}
        place += length
    return safetensors(rows, bytes(place - len(last)) + last)


# Source: IEEE 754; torch compares and sums NaN in silence. Whole numbers are no weights: an optimiser would fail on them.
FORMATS = {
    "half NaN": (typed("F16", 2, b"\x01\x7e"), "WT-NOT-FINITE"),
    "half infinity": (typed("F16", 2, b"\x00\xfc"), "WT-NOT-FINITE"),
    "brain NaN with a payload": (typed("BF16", 2, b"\xff\xff"), "WT-NOT-FINITE"),
    "signalling NaN": (typed("F32", 4, b"\x01\x00\x80\x7f"), "WT-NOT-FINITE"),
    "NaN with a payload": (typed("F32", 4, b"PW\xc0\x7f"), "WT-NOT-FINITE"),
    "double NaN": (typed("F64", 8, struct.pack("<d", math.nan)), "WT-NOT-FINITE"),
    "double infinity": (typed("F64", 8, struct.pack("<d", -math.inf)), "WT-NOT-FINITE"),
    "double beyond float": (typed("F64", 8, struct.pack("<d", 1e300)), "WT-NOT-FINITE"),
    "whole numbers": (typed("I64", 8), "WT-SHAPE"),
    "bytes": (typed("U8", 1), "WT-SHAPE"),
    "truth values": (typed("BOOL", 1), "WT-SHAPE"),
    "eight bits": (typed("I8", 1), "WT-SHAPE"),
    "eight-bit floats": (typed("F8_E5M2", 1), "ST-DTYPE"),
    "an empty tensor": (tensors({**TABLE, "classifier.bias": (0,)}), "WT-SHAPE"),
    "one dimension more": (tensors({**TABLE, "classifier.bias": (1, 2)}), "WT-SHAPE"),
    "the other way round": (tensors({**TABLE, "bert.embeddings.word_embeddings.weight": (4, 8)}), "WT-SHAPE"),
    "a name in capitals": (tensors({**without("classifier.bias"), "classifier.Bias": (2,)}), "WT-HEAD"),
    "a prefix": (tensors({f"module.{name}": shape for name, shape in TABLE.items()}), "WT-MISSING"),
    "quantized beside": (tensors({**TABLE, "classifier.weight_scale": (1,)}), "WT-EXTRA"),
    "an adapter beside": (tensors({**TABLE, "base_model.model.classifier.lora_A.weight": (1,)}), "WT-EXTRA"),
}


@pytest.mark.parametrize("case", sorted(FORMATS))
def test_numbers_that_are_no_weights(case: str, good: dict[str, bytes], refused: Refused) -> None:
    content, rule = FORMATS[case]
    assert refused(good | {"model.safetensors": content}, weights=True) == {rule}


def test_a_tensor_in_two_shards_is_refused(good: dict[str, bytes], refused: Refused) -> None:
    """The last shard read would win, and which is last differs by reader."""
    del good["model.safetensors"]
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    shards = {name: tensors(TABLE) for name in names}
    index = dumped({"weight_map": dict.fromkeys(TABLE, names[1])})
    files = good | shards | {"model.safetensors.index.json": index}
    assert refused(files, weights=True) == {"ST-DUPLICATE"}


def test_one_infinity_among_half_floats_is_found(good: dict[str, bytes], refused: Refused) -> None:
    rows, place = {}, 0
    for name, shape in TABLE.items():
        length = 2
        for size in shape:
            length *= size
        rows[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, place + length]}
        place += length
    data = bytes(place - 2) + b"\x80\x7f"
    assert refused(good | {"model.safetensors": safetensors(rows, data)}, weights=True) == {"WT-NOT-FINITE"}


def test_a_config_that_asks_for_terabytes_is_refused_before_anything_is_built(
    good: dict[str, bytes], refused: Refused
) -> None:
    config = CONFIG | {"vocab_size": 1 << 24, "hidden_size": 1 << 16}
    assert refused(good | {"config.json": dumped(config)}) == {"CF-SIZE"}
