"""The allow-list of tokenizer.json: which parts a tokenizer may be made of, with which settings.

`rebuild` makes a new description from what is listed, without padding and truncation (they belong to the reader of a
text, not to the model; a fixed padding of 2e8 tokens is one file away). Patterns are taken only from the list of
those that real models use, because the regex engine behind them can be driven into the ground, and a replacement may
not make a text longer.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.intake.file_names import TOKENIZER
from app.intake.rules import refusal, shown
from app.intake.tokenizer_vocabulary import (
    TOKEN_CHARACTERS,
    VOCABULARY,
    added_tokens,
    known_ids,
    merges,
    numbered,
    odd,
    refuse_other_ids,
    scored,
)

Check = Callable[[Any], bool]
DEPTH = 3
LENGTH = 16
PARTS_IN_ALL = 32
WORD_CHARACTERS = 200  # WordPiece looks at all parts of a word: the cube of its length
CHARSMAP_BYTES = 2 * 1024 * 1024
CHARSMAP_GROWTH = 64  # bytes that one character may become; the longest of NFKC has 33

_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = frozenset(
    {_GPT4 % "{1,3}", _GPT4 % "", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"}
    | {" {2,}", r"\s+", r"\n", r"[\n\r\t]", r"\s{2,}|[\n\r\t]"}
)
BEHAVIOURS = frozenset({"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"})


def _flag(value: Any) -> bool:
    return type(value) is bool


def _optional_flag(value: Any) -> bool:
    return value is None or type(value) is bool


def _short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 8


def _character(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 1


def _optional_token(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= TOKEN_CHARACTERS)


def _token_and_id(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def _behaviour(value: Any) -> bool:
    return isinstance(value, str) and value in BEHAVIOURS


def _few(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 8


def _scheme(value: Any) -> bool:
    return isinstance(value, str) and value in ("always", "first", "never")


def _pattern(value: Any) -> bool:
    """A literal text, or one of PATTERNS. Raises ModelRefused (TK-REGEX)."""
    match value:
        case {"String": str(text)} if len(value) == 1:
            return 0 < len(text) <= 64
        case {"Regex": str(text)} if len(value) == 1:
            if text not in PATTERNS:
                message = f"the pattern {shown(text)!r} is not one of those that known models use."
                raise refusal("TK-REGEX", TOKENIZER, message)
            return True
    return False


def _charsmap(value: Any) -> bool:
    """A SentencePiece character map: a trie, then the replacements, each ended by a zero byte."""
    if not isinstance(value, str) or len(value) > CHARSMAP_BYTES:
        return False
    try:
        blob = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    if len(blob) < 4:
        return False
    (trie,) = struct.unpack("<I", blob[:4])
    if max(map(len, blob[4 + trie :].split(b"\0"))) > CHARSMAP_GROWTH:
        raise refusal("TK-GROWTH", TOKENIZER, "its character map makes one character into a long text.")
    return 4 + int(trie) <= len(blob)


def _single(value: Any) -> bool:
    """The text once, all of the first kind: a classifier reads one text, and may know one kind alone."""
    return _pieces(value, "A") and all(row["type_id"] == 0 for piece in value for row in piece.values())


def _pair(value: Any) -> bool:
    return _pieces(value, "AB")


def _pieces(value: Any, texts: str) -> bool:
    """Each text once: a template that repeats one, applied to its own result, grows without bounds."""
    if not isinstance(value, list) or len(value) > LENGTH or not all(_is_piece(piece) for piece in value):
        return False
    return sorted(piece["Sequence"]["id"] for piece in value if "Sequence" in piece) == list(texts)


def _is_piece(piece: Any) -> bool:
    match piece:
        case {"Sequence": {"id": "A" | "B", "type_id": int(kind)}}:
            return len(piece) == 1 and len(piece["Sequence"]) == 2 and kind in (0, 1)
        case {"SpecialToken": {"id": str(token), "type_id": int(kind)}}:
            return len(piece) == 1 and len(piece["SpecialToken"]) == 2 and kind in (0, 1) and bool(token)
    return False


def _template_tokens(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= LENGTH and all(
        isinstance(row, dict)
        and set(row) == {"id", "ids", "tokens"}
        and all(isinstance(row[key], list) and len(row[key]) <= 4 for key in ("ids", "tokens"))
        and len(row["ids"]) == len(row["tokens"])
        and all(type(number) is int for number in row["ids"])
        and all(isinstance(token, str) for token in row["tokens"])
        and row["id"] == name
        for name, row in value.items()
    )  # fmt: skip


_BYTES: Mapping[str, Check] = {"add_prefix_space": _flag, "trim_offsets": _flag, "use_regex": _flag}
_META: Mapping[str, Check] = {
    "replacement": _character, "prepend_scheme": _scheme, "split": _flag,
    "add_prefix_space": _flag, "str_rep": _short,
}  # fmt: skip
_REPLACE: Mapping[str, Check] = {"pattern": _pattern, "content": _short}
_NONE: Mapping[str, Check] = {}

PARTS: Mapping[str, Mapping[str, Mapping[str, Check]]] = {
    "normalizer": {
        "BertNormalizer": {
            "clean_text": _flag, "handle_chinese_chars": _flag, "strip_accents": _optional_flag, "lowercase": _flag,
        },
        **dict.fromkeys(("Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Nmt", "ByteLevel"), _NONE),
        "Strip": {"strip_left": _flag, "strip_right": _flag},
        "Prepend": {"prepend": _short},
        "Replace": _REPLACE,
        "Precompiled": {"precompiled_charsmap": _charsmap},
    },
    "pre_tokenizer": {
        **dict.fromkeys(("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts"), _NONE),
        "ByteLevel": _BYTES,
        "Metaspace": _META,
        "CharDelimiterSplit": {"delimiter": _character},
        "Punctuation": {"behavior": _behaviour},
        "Digits": {"individual_digits": _flag},
        "Split": {"pattern": _pattern, "behavior": _behaviour, "invert": _flag},
    },
    "post_processor": {
        "BertProcessing": {"sep": _token_and_id, "cls": _token_and_id},
        "RobertaProcessing": {
            "sep": _token_and_id, "cls": _token_and_id, "trim_offsets": _flag, "add_prefix_space": _flag,
        },
        "ByteLevel": _BYTES,
        "TemplateProcessing": {"single": _single, "pair": _pair, "special_tokens": _template_tokens},
    },
    "decoder": {
        **dict.fromkeys(("ByteFallback", "Fuse"), _NONE),
        "BPEDecoder": {"suffix": _short},
        "ByteLevel": _BYTES,
        "WordPiece": {"prefix": _short, "cleanup": _flag},
        "Metaspace": _META,
        "Strip": {"content": _character, "start": _few, "stop": _few},
        "Replace": _REPLACE,
    },
}  # fmt: skip
# How each kind writes its list of parts.
_LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}
_LISTS["decoder"] = "decoders"
# Parts that multiply what they are given: twice in a row they would multiply again.
_ONCE = frozenset({"ByteLevel", "Precompiled", "TemplateProcessing", "BertProcessing", "RobertaProcessing"})

MODELS: Mapping[str, Mapping[str, Check]] = {
    "WordPiece": {
        "unk_token": _optional_token,
        "continuing_subword_prefix": _short,
        "max_input_chars_per_word": lambda value: type(value) is int and 1 <= value <= WORD_CHARACTERS,
    },
    "WordLevel": {"unk_token": _optional_token},
    "BPE": {
        "dropout": lambda value: value is None or value == 0,
        "unk_token": _optional_token,
        "continuing_subword_prefix": lambda value: value is None or _short(value),
        "end_of_word_suffix": lambda value: value is None or _short(value),
        "fuse_unk": _flag,
        "byte_fallback": _flag,
        "ignore_merges": _flag,
    },
    "Unigram": {
        "unk_id": lambda value: value is None or (type(value) is int and 0 <= value <= VOCABULARY),
        "byte_fallback": _flag,
    },
}


def rebuild(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A new tokenizer.json, without padding and truncation. Raises ModelRefused (TK-*)."""
    known = {"version", "truncation", "padding", "added_tokens", "model", *PARTS}
    if unknown := sorted(set(raw) - known):
        raise odd("tokenizer", unknown[0])
    parts = {kind: _part(kind, raw.get(kind), DEPTH) for kind in PARTS}
    for kind, part in parts.items():
        _refuse_chains(kind, list(_names(kind, part)))
    added, model = added_tokens(raw.get("added_tokens", [])), _model(raw.get("model"))
    refuse_other_ids(parts["post_processor"], known_ids(model, added))
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts, "model": model}


def _part(kind: str, value: Any, depth: int) -> dict[str, Any] | None:
    """One normalizer, pre-tokenizer, post-processor or decoder, or a sequence of them."""
    if value is None:
        return None
    name = value.get("type") if isinstance(value, dict) else None
    if name == "Sequence":
        parts = value.get(_LISTS[kind])
        if set(value) != {"type", _LISTS[kind]} or not isinstance(parts, list) or len(parts) > LENGTH or not depth:
            raise odd(kind, "Sequence")
        return {"type": name, _LISTS[kind]: [_part(kind, part, depth - 1) for part in parts]}
    if not isinstance(name, str) or name not in PARTS[kind]:
        raise odd(kind, name)
    for key, item in value.items():
        if key != "type" and not (key in PARTS[kind][name] and PARTS[kind][name][key](item)):
            raise odd(f"{kind} {name}", key)
    if name == "Replace":
        _refuse_growth(value)
    return dict(value)


def _names(kind: str, part: Mapping[str, Any] | None) -> Iterator[str]:
    """The types of all parts below, sequences left out."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part["type"]
    for inner in part.get(_LISTS[kind], []):
        yield from _names(kind, inner)


def _refuse_chains(kind: str, names: list[str]) -> None:
    twice = sorted({name for name in names if name in _ONCE and names.count(name) > 1})
    if twice:
        message = f"its {kind} has {twice[0]} more than once; each multiplies what the one before it made."
        raise refusal("TK-GROWTH", TOKENIZER, f"{message} Save the tokenizer again.")
    if len(names) > PARTS_IN_ALL:
        raise refusal("TK-COMPONENT", TOKENIZER, f"its {kind} has {len(names)} parts; read are {PARTS_IN_ALL}.")


def _refuse_growth(replace: Mapping[str, Any]) -> None:
    pattern, content = replace.get("pattern", {}), replace.get("content", "")
    longest = len(pattern["String"]) if "String" in pattern else 1
    if len(content) > longest:
        message = f"it replaces {shown(pattern)} by a longer text; a few of these turn ten bytes into gigabytes."
        raise refusal("TK-GROWTH", TOKENIZER, message)


def _model(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise odd("model", value)
    name = value.get("type", _guess(value))
    if not isinstance(name, str) or name not in MODELS:
        raise odd("model", name)
    for key, item in value.items():
        if key in ("type", "vocab") or (key == "merges" and name == "BPE"):
            continue
        if key not in MODELS[name] or not MODELS[name][key](item):
            raise odd(f"model {name}", key)
    fine = scored(value) if name == "Unigram" else numbered(value.get("vocab"))
    if name in ("WordPiece", "WordLevel") and fine and value.get("unk_token") not in value["vocab"]:
        message = "unk_token is not in its vocabulary: it would fail at the first unknown word."
        raise refusal("TK-VOCABULARY", TOKENIZER, f"{message} Save the tokenizer again.")
    if not fine or (name == "BPE" and not merges(value)):
        raise refusal("TK-VOCABULARY", TOKENIZER, "its vocabulary is damaged. Save the tokenizer again.")
    return {"type": name} | dict(value)


def _guess(model: Mapping[str, Any]) -> str:
    """Early files leave the type out."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"
