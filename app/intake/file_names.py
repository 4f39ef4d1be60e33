"""Which files a checkpoint may consist of, by name. Only these names ever reach a reader; all files lie on disk under
names that we chose, so that a name is a word to compare and never a path to open."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path

from app.domain.model import Finding
from app.intake.rules import MOST_FINDINGS, note, refusal, shown

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
SHARD = re.compile(r"model-([0-9]{5})-of-([0-9]{5})\.safetensors")
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
VOCAB_TXT = "vocab.txt"
VOCAB_JSON = "vocab.json"
MERGES = "merges.txt"

READ = frozenset(
    {CONFIG, WEIGHTS, INDEX, PICKLE, TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS}
    | {ADDED_TOKENS, VOCAB_TXT, VOCAB_JSON, MERGES}
)
_IGNORED = re.compile(
    r"""(?ix) (.*/)? (
        readme(\.\w+)? | licen[cs]e([.-]\w+)* | notice(\.\w+)? | .*\.md
      | \.git(attributes|ignore) | \.ds_store | \._.*
      | (all|train|eval|predict)_results\.json | trainer_state\.json | generation_config\.json
      | (spiece|sentencepiece\.bpe|tokenizer)\.model | chat_template\.(jinja|json)
      | training_args\.bin | (optimizer|scheduler|scaler)\.(pt|bin) | rng_state(_\d+)?\.pth
      | tf_model\.h5 | flax_model\.msgpack | rust_model\.ot | .*\.(jpe?g|png|gif|svg|pdf|log|tfevents\..*)
    ) | __macosx/.*""",
)
# What the Trainer and the Hub put beside a checkpoint: other checkpoints, logs, exports, caches.
_BESIDE = re.compile(r"(checkpoint-\d+|runs|logs|onnx|openvino|coreml|\.cache|\.git)/.*")
_CODE = re.compile(r"(?i).*\.(py|pyc|pyo|pyd|pyw|ipynb|so|dll|dylib|exe|sh|bat|ps1|js|jar|whl|egg)")
_PICKLES = re.compile(r"(?i).*\.(pkl|pickle|pt|pth|bin|ckpt|joblib|dill|dat|data|npy|npz|th|mar|model)")
_PART = re.compile(r"[^\\:*?\"<>|]{1,255}")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})  # controls, directions, joiners, halves, private, line ends


class Kind(Enum):
    READ = "read"
    IGNORED = "ignored"


def check_path(path: str) -> str:
    """The path itself if it is a plain relative one. Raises ModelRefused (FN-UNSAFE)."""
    parts = path.split("/")
    fine = (
        len(path) <= 1024
        and unicodedata.normalize("NFC", path) == path
        and not any(unicodedata.category(character) in _HIDDEN for character in path)
        and all(_PART.fullmatch(part) and part.strip(". ") and part == part.strip() for part in parts)
    )
    if not fine:
        raise refusal("FN-UNSAFE", shown(path), "the name is not a plain relative path. Rename the file.")
    return path


def check_collisions(paths: Iterable[str]) -> None:
    """No two names may be one where case or Unicode form is not told apart. Raises ModelRefused (FN-COLLISION)."""
    seen: dict[str, str] = {}
    for path in paths:
        key = unicodedata.normalize("NFKC", path).casefold()
        if key in seen:
            raise refusal(
                "FN-COLLISION", shown(path), f"its name collides with {shown(seen[key])}. Keep one of them."
            )
        seen[key] = path


def strip_top_folder(files: Mapping[str, Path]) -> dict[str, Path]:
    """The same files without the one folder that holds all of them, where there is one."""
    tops = {path.partition("/")[0] for path in files if not _IGNORED.fullmatch(path)}
    nested = all("/" in path for path in files if not _IGNORED.fullmatch(path))
    if len(tops) != 1 or not nested:
        return dict(files)
    prefix = f"{tops.pop()}/"
    return {path.removeprefix(prefix): file for path, file in files.items()}


def classify(path: str) -> Kind:
    """Whether a file is read or left out: never opened, whatever is in it.

    Raises ModelRefused (FN-*) for one that has no place in a checkpoint.
    """
    if path in READ or SHARD.fullmatch(path):
        return Kind.READ
    if _IGNORED.fullmatch(path) or _BESIDE.fullmatch(path):
        return Kind.IGNORED
    if _CODE.fullmatch(path):
        raise refusal("FN-CODE", path, "program code is never run here. Leave it out: supported models need none.")
    if _PICKLES.fullmatch(path):
        message = "of pickled files only pytorch_model.bin is read, by conversion. Leave this one out."
        raise refusal("FN-PICKLE", path, message)
    if "/" in path:
        raise refusal(
            "FN-FOLDER", path, "a checkpoint has no subfolders. Put its files at the top, leave others out."
        )
    message = f"files of this name are not read. A checkpoint consists of {CONFIG}, {WEIGHTS} and tokenizer files."
    raise refusal("FN-FORMAT", path, message)


def ignored(paths: Iterable[str]) -> list[Finding]:
    """A note for each; where they are many, one for all that go beyond."""
    ordered = sorted(paths)
    named, more = ordered[:MOST_FINDINGS], ordered[MOST_FINDINGS:]
    notes = [note("FN-IGNORED", path, "not needed; left out unread.") for path in named]
    return notes + ([note("FN-IGNORED", more[0], f"left out, and {len(more) - 1} more.")] if more else [])
