"""Tokenizers that bring the process down or eat its memory.

Sources: measured with tokenizers 0.23: the pattern (a+)+$ panics past `except Exception`; four chained Replace rules
turn ten bytes into 5 GB; a fixed padding of 2e8; transformers' auto_map for tokenizers.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.checkpoint_by_hand import TOKENIZER, dumped

Refused = Callable[..., set[str]]


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": False}


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(depth):
        found = {"type": "Sequence", "normalizers": [found]}
    return found


def charsmap(replacement: bytes) -> dict[str, Any]:
    blob = struct.pack("<I", 4) + bytes(4) + replacement + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()}


def model(**changes: Any) -> dict[str, Any]:
    return {**TOKENIZER["model"], **changes}


BPE = {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": None}
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "catastrophic pattern": ({"pre_tokenizer": split("(a+)+$")}, "TK-REGEX"),
    "pattern in a normalizer": ({"normalizer": replace({"Regex": "(x|x)*y"}, "")}, "TK-REGEX"),
    "pattern in a decoder": ({"decoder": replace({"Regex": "(x|x)*y"}, "")}, "TK-REGEX"),
    "growing replacement": ({"normalizer": replace({"String": "a"}, "aaaaaaaa")}, "TK-GROWTH"),
    "growing pattern": ({"normalizer": replace({"Regex": r"\s+"}, "    ")}, "TK-GROWTH"),
    "growing character map": ({"normalizer": charsmap(b"x" * 5000)}, "TK-GROWTH"),
    "empty pattern": ({"normalizer": replace({"String": ""}, "a")}, "TK-COMPONENT"),
    "long replacement": ({"normalizer": replace({"String": "a"}, "b" * 10_000)}, "TK-COMPONENT"),
    "two patterns": ({"normalizer": replace({"String": "a", "Regex": "b"}, "")}, "TK-COMPONENT"),
    "long prefix": ({"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}}, "TK-COMPONENT"),
    "deep": ({"normalizer": nested(20)}, "TK-COMPONENT"),
    "wide": ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}] * 500}}, "TK-COMPONENT"),
    "unknown part": ({"pre_tokenizer": {"type": "Python", "code": "x"}}, "TK-COMPONENT"),
    "unknown setting": ({"pre_tokenizer": {"type": "Whitespace", "x": 1}}, "TK-COMPONENT"),
    "unknown key": ({"chat": "x"}, "TK-COMPONENT"),
    "part of text": ({"normalizer": "Lowercase"}, "TK-COMPONENT"),
    "no charsmap": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "!!"}}, "TK-COMPONENT"),
    "unknown model": ({"model": model(type="Other")}, "TK-COMPONENT"),
    "random model": ({"model": BPE | {"dropout": 0.5}}, "TK-COMPONENT"),
    "endless words": (
        {"model": model(type="WordPiece", max_input_chars_per_word=10**9, continuing_subword_prefix="#")},
        "TK-COMPONENT",
    ),
    "equal ids": ({"model": model(vocab={"a": 0, "b": 0})}, "TK-VOCABULARY"),
    "negative id": ({"model": model(vocab={"a": -1})}, "TK-VOCABULARY"),
    "huge id": ({"model": model(vocab={"a": 1 << 40})}, "TK-VOCABULARY"),
    "empty": ({"model": model(vocab={})}, "TK-VOCABULARY"),
    "merges of numbers": ({"model": BPE | {"merges": [1]}}, "TK-VOCABULARY"),
    "empty added token": ({"added_tokens": [{"id": 0, "content": ""}]}, "TK-COMPONENT"),
    "added code": ({"added_tokens": [{"id": 0, "content": "a", "code": "x"}]}, "TK-COMPONENT"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CHANGES))
def test_a_tokenizer_beyond_the_list_is_refused(case: str, good: dict[str, bytes], refused: Refused) -> None:
    change, rule = CHANGES[case]
    assert refused(good | {"tokenizer.json": dumped(TOKENIZER | change)}) == {rule}


def test_a_tokenizer_config_that_points_to_code_is_refused(good: dict[str, bytes], refused: Refused) -> None:
    settings = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
    assert refused(good | {"tokenizer_config.json": dumped(settings)}) == {"TK-CODE"}


def test_damaged_vocabulary_files_are_refused(good: dict[str, bytes], refused: Refused) -> None:
    del good["tokenizer.json"]
    assert refused(good | {"vocab.txt": b"[PAD]\n[PAD]\n"}) == {"TK-VOCABULARY"}


def test_without_a_tokenizer_nothing_is_guessed(good: dict[str, bytes], refused: Refused) -> None:
    del good["tokenizer.json"]
    assert refused(good) == {"FN-MISSING"}


def test_through_the_real_child(good: dict[str, bytes], refused_by_child: Refused) -> None:
    change, rule = CHANGES["catastrophic pattern"]
    assert refused_by_child(good | {"tokenizer.json": dumped(TOKENIZER | change)}) == {rule}
