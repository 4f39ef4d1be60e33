"""The steps of the intake that need torch and transformers. Runs in a sandboxed child only.

Guarantee: nothing here opens an uploaded file, but for a pickle whose every instruction was checked; models are built
from rebuilt configs on the meta device (no memory for weights), tokenizers from rebuilt files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from app.intake.file_names import CONFIG, TOKENIZER, TOKENIZER_CONFIG
from app.intake.rules import refusal, shown
from app.intake.tokenizer_files import GENERAL, TOKENS
from app.intake.weights import Table

logging.set_verbosity_error()

SAMPLES = (
    "The plot was dull, but the cast is lovely.",
    "int main(void) {\n\treturn strcmp(a->name, \"x\") == 0;\n}",
    "Ünïcödé  ¿qué?  東京 🙂 (1,234.5)",
    " leading, trailing ",
    "a" * 300,
)  # fmt: skip
MOST_TOKENS_PER_BYTE = 4


class TorchBench:
    """See `app.intake.admit.Bench`."""

    def table(self, config: Mapping[str, Any]) -> Table:
        """Names and shapes of a model built from the config on the meta device. Raises ModelRefused (CF-VALUE)."""
        try:
            with torch.device("meta"):
                settings = AutoConfig.for_model(**config)
                model = AutoModelForSequenceClassification.from_config(settings)
        except Exception as error:  # a library's many ways to say that sizes do not fit together
            raise refusal("CF-VALUE", CONFIG, f"no model can be built from it ({shown(error)}).") from None
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return Table(shapes, model.base_model_prefix, int(settings.vocab_size))

    def convert_pickle(self, pickle: Path, name: str, out: Path) -> None:
        """torch.load(weights_only=True) on a checked file, and nothing else if that fails. Raises ModelRefused."""
        try:
            found = torch.load(pickle, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            raise refusal(
                "PK-CONTENT", name, f"its weights cannot be read ({shown(error)}). Save it again."
            ) from None
        plain = isinstance(found, dict) and all(
            type(key) is str and type(value) in (torch.Tensor, torch.nn.Parameter) for key, value in found.items()
        )
        if not plain or not found:
            raise refusal("PK-CONTENT", name, "it holds something other than tensors by name. Save a state dict.")
        save_file({key: value.detach().clone().contiguous() for key, value in found.items()}, out)

    def build_tokenizer(self, staging: Path, out: Path, table: Table) -> None:
        """Load the staged files as transformers would, write them as one self-contained tokenizer.json, and try it.

        Raises ModelRefused (TK-FAILS, TK-VOCABULARY).
        """
        tokenizer = _load(staging)
        backend = tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        (out / TOKENIZER).write_text(backend.to_str(), encoding="utf-8")
        (out / TOKENIZER_CONFIG).write_text(_settings(tokenizer), encoding="utf-8")
        _refuse_ids(tokenizer, table)
        rewritten = _load(out)
        found = [_encode(tokenizer, text) for text in SAMPLES]
        _refuse_beyond(max((max(ids, default=0) for ids in found), default=0), table)
        if not any(found):
            raise refusal("TK-FAILS", TOKENIZER, "it makes no tokens of an ordinary text.")
        for text, ids in zip(SAMPLES, found, strict=True):
            if _encode(rewritten, text) != ids:
                message = "written in its general form it makes other tokens. Save it with a current transformers."
                raise refusal("TK-FAILS", TOKENIZER, message)


def _load(folder: Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise refusal("TK-FAILS", TOKENIZER, f"no tokenizer can be built from it ({shown(error)}).") from None
    if not tokenizer.is_fast:
        raise refusal("TK-FAILS", TOKENIZER, "it has no fast form. Save it with a tokenizer.json.")
    return tokenizer


def _encode(tokenizer: Any, text: str) -> list[int]:
    try:
        ids: list[int] = tokenizer(text)["input_ids"]
    except Exception as error:
        raise refusal("TK-FAILS", TOKENIZER, f"it fails on an ordinary text ({shown(error)}).") from None
    if len(ids) > MOST_TOKENS_PER_BYTE * len(text.encode()) + 16:
        raise refusal("TK-FAILS", TOKENIZER, f"it makes {len(ids)} tokens of an ordinary text.")
    return ids


def _refuse_ids(tokenizer: Any, table: Table) -> None:
    """Every id that can come out must have its row among the model's embeddings."""
    _refuse_beyond(max(tokenizer.get_vocab().values(), default=0), table)


def _refuse_beyond(highest: int, table: Table) -> None:
    if highest >= table.vocabulary:
        message = f"its highest token id is {highest}, and the model knows {table.vocabulary} tokens."
        raise refusal("TK-VOCABULARY", TOKENIZER, f"{message} Upload the tokenizer that belongs to the model.")


def _settings(tokenizer: Any) -> str:
    """tokenizer_config.json of the general fast tokenizer, which reads tokenizer.json as it stands."""
    settings = {
        "tokenizer_class": GENERAL,
        "model_max_length": int(tokenizer.model_max_length),
        "model_input_names": list(tokenizer.model_input_names),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "clean_up_tokenization_spaces": bool(tokenizer.clean_up_tokenization_spaces),
    }
    tokens = {key: str(value) for key in TOKENS if (value := getattr(tokenizer, key, None)) is not None}
    if getattr(tokenizer, "add_prefix_space", False):
        settings["add_prefix_space"] = True
    return json.dumps(settings | tokens, indent=2, ensure_ascii=False)
