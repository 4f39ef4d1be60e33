"""Good files of every kind: what mutants are made of."""

from __future__ import annotations

import copy
import gzip
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from tests import zip_by_hand
from tests.checkpoint_by_hand import CONFIG, TOKENIZER, tar, tensors, torch_zip
from tests.zip_by_hand import DEFLATED, Part

KINDS = ("header", "config", "tokenizer", "tar", "zip", "pickle", "jsonl", "csv", "tsv")

TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[UNK]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"[UNK]": {"id": "[UNK]", "ids": [0], "tokens": ["[UNK]"]}},
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
SPACES = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"model": {"type": "BPE", "vocab": {"[UNK]": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]},
     "pre_tokenizer": BYTES, "decoder": BYTES},
    {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["[UNK]", 0.0], ["a", -1.5], ["▁", -2.0]]},
     "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}},
    {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1, "##b": 2}, "unk_token": "[UNK]",
               "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
     "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, SPACES]},
     "post_processor": TEMPLATE,
     "added_tokens": [{"id": 3, "content": "[X]", "special": True}]},
)  # fmt: skip
CONFIGS = (
    CONFIG,
    {**CONFIG, "model_type": "llama", "architectures": ["LlamaForSequenceClassification"],
     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "auto_map": {}, "num_key_value_heads": 1},
    {**CONFIG, "model_type": "albert", "architectures": ["AlbertForSequenceClassification"], "num_hidden_groups": 1},
)  # fmt: skip
FILES = {"config.json": b"{}", "README.md": b"# a", "folder/x.md": b"b" * 600}
PARTS = [Part(name.encode(), data, DEFLATED) for name, data in FILES.items()]
PROGRAM = (
    b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03"
    b"ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x04tq\x07QK\x00K\x02K\x02\x86q\x08"
    b"K\x02K\x01\x86q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\ru."
)
ROWS = (
    {"text": "a film", "label": 1},
    {"text": "b\n", "label": "good", "clean_text": "c"},
    {"text": "é", "label": 0},
)


def objects(kind: str) -> list[dict[str, Any]]:
    """The JSON objects of a kind that is made of one."""
    if kind == "header":
        return [json.loads(file[8 : 8 + struct.unpack("<Q", file[:8])[0]]) for file in _headers()]
    found = CONFIGS if kind == "config" else [{**TOKENIZER, **change} for change in CHANGES]
    return [copy.deepcopy(each) for each in found]


def _headers() -> list[bytes]:
    return [tensors({"a.weight": (2, 3), "b": (), "c": (4,)}), tensors({"only": (1, 1, 2)})]


def pickled(program: bytes) -> bytes:
    return torch_zip(program, {"archive/data/0": bytes(16), "archive/byteorder": b"little"})


def files(kind: str) -> list[bytes]:
    """Whole files of the kind."""
    made: Mapping[str, Callable[[], list[bytes]]] = {
        "header": _headers,
        "config": lambda: [json.dumps(each).encode() for each in objects(kind)],
        "tokenizer": lambda: [json.dumps(each).encode() for each in objects(kind)],
        "tar": lambda: [tar(FILES), gzip.compress(tar(FILES), mtime=0)],
        "zip": lambda: [zip_by_hand.make(*PARTS), zip_by_hand.plain(**{"config.json": b"{}"})],
        "pickle": lambda: [pickled(PROGRAM)],
        "jsonl": lambda: ["".join(json.dumps(row) + "\n" for row in ROWS).encode()],
        "csv": lambda: [b'text,label,x\na film,1,\n"b ""c""\n d",good,y\n'],
        "tsv": lambda: [b'sentence\tlabel\na film\t1\nb "c\t0\n'],
    }
    return made[kind]()
