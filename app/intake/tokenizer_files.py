"""The tokenizer's files, rebuilt into a folder of ours from which alone a library may load.

With a tokenizer.json, that file is the truth and vocabulary files beside it are left out. Without one, the vocabulary
files of the BERT, RoBERTa and GPT-2 lines are enough to build it (by the worker, in the child).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.domain.model import Finding
from app.intake import file_names as names
from app.intake import tokenizer_parts, tokenizer_vocabulary
from app.intake.rules import listed, note, refusal, shown
from app.intake.strict_json import MIB, read_object
from app.intake.unpack import Gathered

JSON_BYTES = 32 * MIB
CONFIG_BYTES = 8 * MIB
LINES_BYTES = 32 * MIB

_LINES = ("Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "Electra", "Albert", "MPNet", "Deberta") + (
    ("DebertaV2", "GPT2", "Llama", "Qwen2")
)
CLASSES = frozenset(
    {"PreTrainedTokenizerFast", "TokenizersBackend"}
    | {f"{line}Tokenizer{suffix}" for line in _LINES for suffix in ("", "Fast")}
)
GENERAL = "PreTrainedTokenizerFast"
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Which tokenizer reads vocab.txt, and which vocab.json with merges.txt.
FROM_WORDS = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer", "electra": "ElectraTokenizer"}
FROM_MERGES = {"roberta": "RobertaTokenizer", "gpt2": "GPT2Tokenizer"}

Check = Callable[[Any], bool]


def _flag(value: Any) -> bool:
    return type(value) is bool


def _side(value: Any) -> bool:
    return value in ("left", "right")


_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
SETTINGS: Mapping[str, Check] = {
    "tokenizer_class": lambda value: isinstance(value, str) and value in CLASSES,
    "model_max_length": lambda value: type(value) is int and value > 0,
    **dict.fromkeys(
        ("do_lower_case", "tokenize_chinese_chars", "clean_up_tokenization_spaces", "trim_offsets"), _flag
    ),
    **dict.fromkeys(("add_prefix_space", "add_bos_token", "add_eos_token", "split_special_tokens"), _flag),
    "strip_accents": lambda value: value is None or _flag(value),
    "padding_side": _side,
    "truncation_side": _side,
    "model_input_names": lambda value: (
        isinstance(value, list) and all(isinstance(item, str) for item in value) and set(value) <= _INPUTS
    ),
}
# Settings that repeat what tokenizer.json says, or say nothing about it. Left out without a word.
_SILENT = frozenset(
    {
        "added_tokens_decoder",
        "additional_special_tokens",
        "extra_special_tokens",
        "name_or_path",
        "special_tokens_map_file",
    }
    | {"tokenizer_file", "never_split", "do_basic_tokenize", "is_local", "backend", "local_files_only", "errors"}
    | {"max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "pad_token_type_id", "processor_class"}
)


def stage(gathered: Gathered, model_type: str, staging: Path) -> tuple[Finding, ...]:
    """Write rebuilt tokenizer files into `staging`, which exists and is empty. Raises ModelRefused (TK-*, JS-*)."""
    settings, dropped = _settings(gathered)
    if names.TOKENIZER in gathered.files:
        raw = read_object(gathered.files[names.TOKENIZER], names.TOKENIZER, JSON_BYTES)
        _write(staging / names.TOKENIZER, tokenizer_parts.rebuild(raw))
        settings.setdefault("tokenizer_class", GENERAL)
        notes = dropped
    else:
        settings["tokenizer_class"] = _stage_vocabulary(gathered, model_type, staging)
        notes = (*dropped, note("TK-BUILT", names.TOKENIZER, "built from the vocabulary files."))
    _write(staging / names.TOKENIZER_CONFIG, settings)
    return notes


def _settings(gathered: Gathered) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """tokenizer_config.json from the allow-list, with the tokens of special_tokens_map.json where it names none."""
    raw = _optional(gathered, names.TOKENIZER_CONFIG)
    if raw.get("auto_map"):
        message = "auto_map makes a loader run program code. Use one of the built-in tokenizers."
        raise refusal("TK-CODE", names.TOKENIZER_CONFIG, message)
    raw = _optional(gathered, names.SPECIAL_TOKENS) | raw
    kept = {key: value for key, value in raw.items() if key in SETTINGS and SETTINGS[key](value)}
    tokens = {key: _token(key, raw[key]) for key in TOKENS if raw.get(key) is not None}
    dropped = {key for key in raw if key not in kept and key not in TOKENS and key not in _SILENT}
    if not dropped:
        return kept | tokens, ()
    return kept | tokens, (note("TK-DROPPED", names.TOKENIZER_CONFIG, f"left out: {listed(dropped)}."),)


def _optional(gathered: Gathered, name: str) -> dict[str, Any]:
    return read_object(gathered.files[name], name, CONFIG_BYTES) if name in gathered.files else {}


def _token(key: str, value: Any) -> str:
    """The text of a special token, given plainly or as an object."""
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str) or not 0 < len(text) <= 256:
        raise refusal("TK-COMPONENT", names.TOKENIZER_CONFIG, f"{key} = {shown(value)} is no token.")
    return text


def _stage_vocabulary(gathered: Gathered, model_type: str, staging: Path) -> str:
    """Write the vocabulary files and return the class that reads them."""
    files = gathered.files
    if names.VOCAB_TXT in files and model_type in FROM_WORDS:
        words = _lines(files[names.VOCAB_TXT], names.VOCAB_TXT)
        if len(set(words)) != len(words):
            raise refusal("TK-VOCABULARY", names.VOCAB_TXT, "a token comes twice. Save the tokenizer again.")
        _write_lines(staging / names.VOCAB_TXT, words)
        _refuse_added(gathered, {word: index for index, word in enumerate(words)})
        return FROM_WORDS[model_type]
    if {names.VOCAB_JSON, names.MERGES} <= set(files) and model_type in FROM_MERGES:
        vocabulary = read_object(files[names.VOCAB_JSON], names.VOCAB_JSON, LINES_BYTES)
        if not tokenizer_vocabulary.numbered(vocabulary):
            raise refusal("TK-VOCABULARY", names.VOCAB_JSON, "it must map tokens to ids, each id once.")
        _write(staging / names.VOCAB_JSON, vocabulary)
        lines = _lines(files[names.MERGES], names.MERGES)
        pairs = [line for line in lines if line and not line.startswith("#version")]
        if not tokenizer_vocabulary.merges({"vocab": vocabulary, "merges": pairs}):
            raise refusal("TK-VOCABULARY", names.MERGES, "it merges what is not in vocab.json. Save it again.")
        _write_lines(staging / names.MERGES, lines)
        _refuse_added(gathered, vocabulary)
        return FROM_MERGES[model_type]
    message = "it is not there, and cannot be built. Save the tokenizer with a current version of transformers."
    raise refusal("FN-MISSING", names.TOKENIZER, message)


def _refuse_added(gathered: Gathered, vocabulary: Mapping[str, int]) -> None:
    """Tokens beside the vocabulary need a tokenizer.json, which says how they are matched."""
    added = _optional(gathered, names.ADDED_TOKENS)
    if any(vocabulary.get(token) != number for token, number in added.items()):
        message = "it adds tokens to the vocabulary. Save the tokenizer with a tokenizer.json."
        raise refusal("TK-VOCABULARY", names.ADDED_TOKENS, message)


def _lines(file: Path, name: str) -> list[str]:
    if file.stat().st_size > LINES_BYTES:
        raise refusal("TK-VOCABULARY", name, f"it is over {LINES_BYTES:,} bytes.")
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise refusal("TK-VOCABULARY", name, "it is not UTF-8. Save the tokenizer again.") from None
    if text.count("\n") > tokenizer_vocabulary.VOCABULARY:
        raise refusal("TK-VOCABULARY", name, f"it has over {tokenizer_vocabulary.VOCABULARY:,} lines.")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if any(len(line) > 2 * tokenizer_vocabulary.TOKEN_CHARACTERS or "\0" in line or "\r" in line for line in lines):
        raise refusal("TK-VOCABULARY", name, "a line of it is no token. Save the tokenizer again.")
    return lines


def _write_lines(file: Path, lines: list[str]) -> None:
    file.write_bytes("".join(f"{line}\n" for line in lines).encode())


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
