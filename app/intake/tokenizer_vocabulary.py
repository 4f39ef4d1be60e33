"""The words of a tokenizer.json: tokens, scores, merges, what is added to them, and the ids that others give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domain.errors import ModelRefused
from app.intake.file_names import TOKENIZER
from app.intake.rules import refusal, shown

TOKEN_CHARACTERS = 1024
VOCABULARY = 2_000_000
ADDED = 20_000
ADDED_CHARACTERS = 1024 * 1024
SCORE = 1e9


def numbered(vocabulary: Any) -> bool:
    """Tokens to ids 0 ... n-1, each once (a few holes are left by added tokens)."""
    return (
        isinstance(vocabulary, dict)
        and 0 < len(vocabulary) <= VOCABULARY
        and all(type(number) is int and 0 <= number < VOCABULARY for number in vocabulary.values())
        and len(set(vocabulary.values())) == len(vocabulary)
        and all(len(token) <= TOKEN_CHARACTERS for token in vocabulary)
    )


def scored(model: Mapping[str, Any]) -> bool:
    """Tokens with their scores, each once, none empty; one of them stands for what is unknown."""
    vocabulary, unknown = model.get("vocab"), model.get("unk_id")
    return (
        isinstance(vocabulary, list)
        and 0 < len(vocabulary) <= VOCABULARY
        and all(
            isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)
            and 0 < len(row[0]) <= TOKEN_CHARACTERS
            and type(row[1]) in (int, float) and abs(row[1]) <= SCORE
            for row in vocabulary
        )
        and len({row[0] for row in vocabulary}) == len(vocabulary)
        and unknown is not None and unknown < len(vocabulary)
    )  # fmt: skip


def merges(model: Mapping[str, Any]) -> bool:
    """Pairs of tokens, each with the token that it makes: the library panics at one that is missing."""
    value, vocabulary = model.get("merges"), model["vocab"]
    prefix = len(model.get("continuing_subword_prefix") or "")
    if not isinstance(value, list) or len(value) > VOCABULARY:
        return False
    pairs = (row.split(" ") if isinstance(row, str) else row for row in value)
    return all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(token, str) and token in vocabulary for token in pair)
        and pair[0] + pair[1][prefix:] in vocabulary
        for pair in pairs
    )


def added_tokens(tokens: Any) -> list[dict[str, Any]]:
    """The added tokens with every flag said. Raises ModelRefused (TK-COMPONENT)."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    if not isinstance(tokens, list) or len(tokens) > ADDED:
        raise odd("tokenizer", "added_tokens")
    for row in tokens:
        fine = (
            isinstance(row, dict)
            and set(row) <= {"id", "content", *flags}
            and type(row.get("id")) is int
            and 0 <= row["id"] < VOCABULARY
            and isinstance(row.get("content"), str)
            and 0 < len(row["content"]) <= TOKEN_CHARACTERS
            and all(type(row.get(flag, False)) is bool for flag in flags)
        )
        if not fine:
            raise odd("tokenizer", "added_tokens")
    if sum(len(row["content"]) for row in tokens) > ADDED_CHARACTERS:
        raise odd("tokenizer", "added_tokens")
    return [{**dict.fromkeys(flags, False), **row} for row in tokens]


def known_ids(model: Mapping[str, Any], added: list[dict[str, Any]]) -> dict[str, int]:
    """Token -> id, of the model and of what is added to it. Raises ModelRefused (TK-VOCABULARY)."""
    vocabulary = model["vocab"]
    known = dict(vocabulary) if isinstance(vocabulary, dict) else {row[0]: i for i, row in enumerate(vocabulary)}
    taken = {number: token for token, number in known.items()}
    for row in added:
        token, number = row["content"], row["id"]
        if known.setdefault(token, number) != number or taken.setdefault(number, token) != token:
            message = f"its added token {shown(token)!r} has an id that the vocabulary gives otherwise."
            raise refusal("TK-VOCABULARY", TOKENIZER, f"{message} Save the tokenizer again.")
    return known


def refuse_other_ids(part: Mapping[str, Any] | None, known: Mapping[str, int]) -> None:
    """The ids that a post-processor puts in are those of its tokens: it would not be asked for them later."""
    if part is None:
        return
    for inner in part.get("processors", []):
        refuse_other_ids(inner, known)
    pairs = [tuple(part[key]) for key in ("cls", "sep") if key in part]
    for row in part.get("special_tokens", {}).values():
        pairs += zip(row["tokens"], row["ids"], strict=True)
    for token, number in pairs:
        if known.get(token) != number:
            message = f"its post_processor gives {shown(token)!r} the id {number}, which is not its own."
            raise refusal("TK-VOCABULARY", TOKENIZER, f"{message} Save the tokenizer again.")


def odd(where: str, what: Any) -> ModelRefused:
    """The refusal of a part or setting that is not on the list."""
    message = f"its {where} has {shown(what)}, which is not on the list of known parts and settings."
    return refusal("TK-COMPONENT", TOKENIZER, message)
