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

from tests.checkpoint_by_hand import CONFIG, TOKENIZER, dumped

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


def sequence(key: str, parts: list[Any]) -> dict[str, Any]:
    return {"type": "Sequence", key: parts}


A = {"Sequence": {"id": "A", "type_id": 0}}


def template(*single: Any, ids: list[int] | None = None) -> dict[str, Any]:
    row = {"id": "[UNK]", "ids": ids or [0], "tokens": ["[UNK]"] * len(ids or [0])}
    pair = [A, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": list(single), "pair": pair, "special_tokens": {"[UNK]": row}}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
UNIGRAM = {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["b", -2.0]]}
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
    # Parts that multiply. Source: measured with tokenizers 0.23: twelve ByteLevel in a row make 4,096 letters of one,
    # each doubles it; a template takes its text sixteen times; two templates in a row panic ("not yet implemented").
    "bytes of bytes": ({"normalizer": sequence("normalizers", [{"type": "ByteLevel"}] * 16)}, "TK-GROWTH"),
    "bytes of bytes in words": ({"pre_tokenizer": sequence("pretokenizers", [BYTES] * 16)}, "TK-GROWTH"),
    "two character maps": ({"normalizer": sequence("normalizers", [charsmap(b"xx")] * 2)}, "TK-GROWTH"),
    "templates in a row": ({"post_processor": sequence("processors", [template(A)] * 2)}, "TK-GROWTH"),
    "a sequence in sequences": (
        {"normalizer": sequence("normalizers", [sequence("normalizers", [{"type": "NFKC"}] * 16)] * 16)}, "TK-COMPONENT",
    ),
    "a template that repeats": ({"post_processor": template(*[A] * 16)}, "TK-COMPONENT"),
    "a template without its text": ({"post_processor": template()}, "TK-COMPONENT"),
    "a template of another kind": ({"post_processor": template({"Sequence": {"id": "A", "type_id": 1}})}, "TK-COMPONENT"),
    "a template of a huge kind": ({"post_processor": template({"Sequence": {"id": "A", "type_id": 1 << 31}})}, "TK-COMPONENT"),
    "an id that only the template knows": ({"post_processor": template(A, ids=[10**6])}, "TK-VOCABULARY"),
    "an id below zero": ({"post_processor": template(A, ids=[-1])}, "TK-VOCABULARY"),
    "an id of another token": ({"post_processor": template(A, ids=[1])}, "TK-VOCABULARY"),
    "an id that only the pair knows": (
        {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 10**6], "cls": ["[UNK]", 0]}}, "TK-VOCABULARY",
    ),
    "ids by the thousand": ({"post_processor": template(A, ids=[0] * 1000)}, "TK-COMPONENT"),
    "a replacement of two letters": ({"pre_tokenizer": {"type": "Metaspace", "replacement": "ab", "prepend_scheme": "always", "split": True}}, "TK-COMPONENT"),
    "a delimiter of nothing": ({"pre_tokenizer": {"type": "CharDelimiterSplit", "delimiter": ""}}, "TK-COMPONENT"),
    "a pattern as text": ({"pre_tokenizer": {"type": "Split", "pattern": "(a+)+$", "behavior": "Removed", "invert": False}}, "TK-COMPONENT"),
    "a known pattern with a tail": ({"pre_tokenizer": split(r"\s+$")}, "TK-REGEX"),
    "a look behind": ({"pre_tokenizer": split("(?<=a{1,9999})b")}, "TK-REGEX"),
    "a character map cut short": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff\xff\xff\x7f").decode()}}, "TK-COMPONENT"),
    "a character map of megabytes": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "A" * 4_000_000}}, "TK-COMPONENT"),
    # Vocabularies. Source: measured with tokenizers 0.23 (failures and panics at the first odd text).
    "words of 1,000 letters": ({"model": model(type="WordPiece", max_input_chars_per_word=1000, continuing_subword_prefix="#")}, "TK-COMPONENT"),
    "no token for the unknown": ({"model": model(unk_token="[NONE]")}, "TK-VOCABULARY"),
    "nothing for the unknown": ({"model": model(unk_token=None)}, "TK-VOCABULARY"),
    "a text as id": ({"model": model(vocab={"[UNK]": "0"})}, "TK-VOCABULARY"),
    "true as id": ({"model": model(vocab={"[UNK]": True})}, "TK-VOCABULARY"),
    "a token of 2,000 letters": ({"model": model(vocab={"[UNK]": 0, "a" * 2000: 1})}, "TK-VOCABULARY"),
    "a vocabulary as a list": ({"model": model(vocab=["[UNK]"])}, "TK-VOCABULARY"),
    "no vocabulary": ({"model": {"type": "WordLevel", "unk_token": "[UNK]"}}, "TK-VOCABULARY"),
    "scores beyond reason": ({"model": UNIGRAM | {"vocab": [["a", 1e300]]}}, "TK-VOCABULARY"),
    "scores of text": ({"model": UNIGRAM | {"vocab": [["a", "-inf"]]}}, "TK-VOCABULARY"),
    "an unknown outside": ({"model": UNIGRAM | {"unk_id": 5}}, "TK-VOCABULARY"),
    "no unknown": ({"model": UNIGRAM | {"unk_id": None}}, "TK-VOCABULARY"),
    "an unknown below zero": ({"model": UNIGRAM | {"unk_id": -1}}, "TK-COMPONENT"),
    "a piece of nothing": ({"model": UNIGRAM | {"vocab": [["a", 0], ["", 0]]}}, "TK-VOCABULARY"),
    "a piece twice": ({"model": UNIGRAM | {"vocab": [["a", 0], ["a", 1]]}}, "TK-VOCABULARY"),
    "merges of three": ({"model": BPE | {"merges": [["a", "a", "a"]]}}, "TK-VOCABULARY"),
    "a merge into nothing": ({"model": BPE | {"merges": ["a a"]}}, "TK-VOCABULARY"),  # measured: a panic
    "a merge of nothing": ({"model": BPE | {"merges": ["a"]}}, "TK-VOCABULARY"),
    "a merge of strangers": ({"model": BPE | {"merges": [["b", "c"]]}}, "TK-VOCABULARY"),
    "merges as an object": ({"model": BPE | {"merges": {"a": "a"}}}, "TK-VOCABULARY"),
    "a cache of gigabytes": ({"model": BPE | {"cache_capacity": 1 << 40}}, "TK-COMPONENT"),
    # Added tokens: an automaton is built of all of them.
    "added tokens by the million": ({"added_tokens": [{"id": n, "content": f"t{n}"} for n in range(20_001)]}, "TK-COMPONENT"),
    "added text of megabytes": ({"added_tokens": [{"id": n, "content": f"{n:01000}"} for n in range(1100)]}, "TK-COMPONENT"),
    "added token of an id below zero": ({"added_tokens": [{"id": -1, "content": "a"}]}, "TK-COMPONENT"),
    "two added tokens of one id": ({"added_tokens": [{"id": 7, "content": "x"}, {"id": 7, "content": "y"}]}, "TK-VOCABULARY"),
    "one added token of two ids": ({"added_tokens": [{"id": 7, "content": "x"}, {"id": 8, "content": "x"}]}, "TK-VOCABULARY"),
    "added token with another's id": ({"added_tokens": [{"id": 1, "content": "x"}]}, "TK-VOCABULARY"),
    "added token against the vocabulary": ({"added_tokens": [{"id": 9, "content": "a"}]}, "TK-VOCABULARY"),
    "added tokens as an object": ({"added_tokens": {"a": 1}}, "TK-COMPONENT"),
    "flags of text": ({"added_tokens": [{"id": 7, "content": "x", "special": "yes"}]}, "TK-COMPONENT"),
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


# Source: readlines() ends a line at \\r, split() does not, and all later ids would differ by one.
VOCABULARIES = {
    "a token twice": b"[PAD]\n[PAD]\n",
    "no UTF-8": b"[PAD]\n\xff\n",
    "a zero": b"[PAD]\na\0b\n",
    "a return within": b"[PAD]\na\rb\n",
    "a line of 4,000 letters": b"[PAD]\n" + b"a" * 4000,
    "lines by the million": b"\n" * 2_000_001 + b"x",
}


@pytest.mark.parametrize("case", sorted(VOCABULARIES))
def test_damaged_vocabulary_files_are_refused(case: str, good: dict[str, bytes], refused: Refused) -> None:
    del good["tokenizer.json"]
    assert refused(good | {"vocab.txt": VOCABULARIES[case]}) == {"TK-VOCABULARY"}


@pytest.mark.parametrize("merges", [b"#version: 0.2\na a\n", b"a\n", b"a b c\n", b"#version: 0.2\nx y\n"])
def test_merges_into_nothing_are_refused(merges: bytes, good: dict[str, bytes], refused: Refused) -> None:
    """Measured with tokenizers 0.23: it panics, past `except Exception`."""
    del good["tokenizer.json"]
    config = {**CONFIG, "model_type": "roberta", "architectures": ["RobertaForSequenceClassification"]}
    files = {"config.json": dumped(config), "vocab.json": b'{"a": 0, "b": 1}', "merges.txt": merges}
    assert refused(good | files) == {"TK-VOCABULARY"}


def test_a_tokenizer_of_empty_lists_is_refused_before_it_takes_memory(
    good: dict[str, bytes], refused: Refused
) -> None:
    """Measured with CPython 3.11: an empty list takes three bytes of the file and eighty of memory."""
    content = b'{"version":[' + b"[]," * 4_000_001 + b"[]]}"
    assert refused(good | {"tokenizer.json": content}) == {"JS-SIZE"}


def test_without_a_tokenizer_nothing_is_guessed(good: dict[str, bytes], refused: Refused) -> None:
    del good["tokenizer.json"]
    assert refused(good) == {"FN-MISSING"}


def test_through_the_real_child(good: dict[str, bytes], refused_by_child: Refused) -> None:
    change, rule = CHANGES["catastrophic pattern"]
    assert refused_by_child(good | {"tokenizer.json": dumped(TOKENIZER | change)}) == {rule}
