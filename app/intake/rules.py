"""The rules of the intake by their stable ids, and how one is invoked.

`docs/threat-model.md` lists the same table with the test of each rule; a test holds the two against each other. An
id, once published, keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.domain.errors import ModelRefused
from app.domain.model import Finding, Severity

FILE_CHARACTERS = 100  # of a file's name in a finding; with MOST_FINDINGS it keeps an answer within one message
MOST_FINDINGS = 25

# Rule id -> what it refuses.
REFUSALS: Mapping[str, str] = {
    "FN-UNSAFE": "a file name that is absolute, climbs up, hides characters or is not in its normal form",
    "FN-COLLISION": "two files whose names are one on some file systems",
    "FN-FOLDER": "a file in a subfolder",
    "FN-CODE": "a file of program code",
    "FN-PICKLE": "a pickled file other than pytorch_model.bin",
    "FN-FORMAT": "weights or a file of a format that is not read",
    "FN-MISSING": "no config.json, no weights or no tokenizer",
    "AR-FORMAT": "an archive that is no tar, tar.gz or zip, or is damaged",
    "AR-AMBIGUOUS": "an archive that two programs would read differently",
    "AR-LINK": "a link inside an archive",
    "AR-SPECIAL": "a device, pipe or sparse file inside an archive",
    "AR-ENCRYPTED": "an encrypted member",
    "AR-COUNT": "too many members",
    "AR-SIZE": "more bytes than the service unpacks",
    "AR-RATIO": "data that unpacks to far more than it takes",
    "JS-SYNTAX": "a file that is not strict JSON in UTF-8",
    "JS-DUPLICATE": "a JSON object that names a key twice",
    "JS-SIZE": "a JSON file over its size limit",
    "CF-TYPE": "a model type that is not supported",
    "CF-ARCHITECTURE": "an architecture that is no sequence classifier of its model type",
    "CF-CODE": "a config that points to program code",
    "CF-QUANTIZED": "quantized weights",
    "CF-REMOTE": "a config that points to files elsewhere",
    "CF-VALUE": "a config value of the wrong type or out of range",
    "CF-LABELS": "class names that are not numbered 0, 1, 2, ... or fewer than two",
    "CF-SIZE": "a config that asks for far larger tensors than the weights hold",
    "ST-HEADER": "a safetensors header that is too short, too long, or not what the format says",
    "ST-DUPLICATE": "a tensor name that comes twice",
    "ST-NAME": "a tensor name outside the plain alphabet",
    "ST-DTYPE": "a number format that is not read",
    "ST-SHAPE": "a shape with too many or impossible dimensions",
    "ST-OFFSETS": "tensors that overlap, leave gaps or do not fit their shape",
    "ST-COUNT": "too many tensors",
    "ST-INDEX": "a shard index that does not match the shards",
    "WT-MISSING": "weights that the config asks for and the file lacks",
    "WT-HEAD": "a model without a trained classification head",
    "WT-EXTRA": "weights that the config does not know",
    "WT-SHAPE": "a tensor whose shape is not the one that the config implies",
    "WT-NOT-FINITE": "NaN or infinite weights",
    "PK-LEGACY": "a pytorch_model.bin in the format before PyTorch 1.6, or damaged",
    "PK-OPCODE": "a pickle instruction that plain weights do not need",
    "PK-GLOBAL": "a pickle that names a function or class outside the list for plain weights",
    "PK-CONTENT": "a pickle that holds anything but tensors by name",
    "TK-COMPONENT": "a tokenizer part that is not on the list, or has a setting that is not",
    "TK-REGEX": "a pattern in a tokenizer other than the well-known ones",
    "TK-GROWTH": "a replacement that makes the text longer",
    "TK-VOCABULARY": "a vocabulary that is damaged or larger than the model's",
    "TK-CODE": "a tokenizer that points to program code",
    "TK-FAILS": "a tokenizer that cannot be built or makes no tokens",
    "SB-CRASH": "content on which the inspector crashed",
    "SB-TIMEOUT": "content on which the inspector ran out of time",
    "SB-MEMORY": "content on which the inspector ran out of memory",
    "SB-PROTOCOL": "content after which the inspector gave an answer that it may not give",
    "SB-ATTEMPTS": "content whose inspection was begun and never finished, time after time",
}

# Rule id -> what it says without keeping the model out.
NOTES: Mapping[str, str] = {
    "FN-IGNORED": "a file that is not needed and was left out",
    "CF-DROPPED": "config keys that were left out, because the architecture does not read them",
    "WT-DROPPED": "tensors that the architecture computes itself and that were left out",
    "WT-UNUSED": "a second copy of the weights that was left out",
    "TK-BUILT": "a tokenizer.json built from the vocabulary files",
    "TK-DROPPED": "tokenizer settings that were left out",
}


def refusal(rule: str, file: str, message: str) -> ModelRefused:
    """The error for one broken rule; the message says why and what to do."""
    assert rule in REFUSALS, rule
    file = file[:FILE_CHARACTERS]
    return ModelRefused(f"{file}: {message}", findings=(Finding(rule, Severity.REFUSAL, file, message),))


def note(rule: str, file: str, message: str) -> Finding:
    assert rule in NOTES, rule
    return Finding(rule, Severity.NOTE, file[:FILE_CHARACTERS], message)


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for a message: the first few in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(shown(name) for name in ordered[:most]) + more


def shown(text: object) -> str:
    """Untrusted text for a message: short, and with every odd character escaped."""
    return ascii(str(text)[:80])[1:-1]
