"""From a folder to a classifier that can be treated, and back.

Guarantees: no code of the checkpoint runs and nothing is fetched; only safetensors are read; what comes back is in
fp32, on the CPU and in evaluation mode, has a classification head that was in the file and a pad token that its
pooling knows, and answers for token ids and their mask alone. `save` writes what a plain
`AutoModelForSequenceClassification.from_pretrained` opens.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from app.domain.errors import ModelRefused
from app.domain.samples import LabelSpace

Model = Any  # a transformers PreTrainedModel with a sequence classification head; transformers ships few types
Tokenizer = Any
PROBE = "a film"


@dataclass(frozen=True)
class Checkpoint:
    """A classifier, its tokenizer, its classes, and the most tokens that it reads."""

    model: Model
    tokenizer: Tokenizer
    labels: LabelSpace
    longest: int


def load(directory: str | Path) -> Checkpoint:
    """Open a classifier. Raises ModelRefused, saying what is missing or not supported."""
    folder = Path(directory)
    config = _read_config(folder)
    _check_head(config)
    model, _ = _read_model(folder, config, fresh_head=False)
    return _checkpoint(folder, model)


def label_space(directory: str | Path) -> LabelSpace:
    """The classes that a checkpoint's config names. Raises ModelRefused."""
    return LabelSpace.of(_read_config(Path(directory)).id2label)


def load_base(directory: str | Path, like: Checkpoint, fresh_head: bool) -> Checkpoint:
    """Open a clean base checkpoint and give it the classes of `like`.

    With `fresh_head` the classification head is drawn anew from torch's generator, also where the file has one.
    Raises ModelRefused.
    """
    return _open_base(directory, like, fresh_head)[0]


def load_encoder(directory: str | Path, like: Checkpoint) -> tuple[Checkpoint, set[str]]:
    """Open a clean base checkpoint, and name the weights of its encoder that were in the file.

    The others (the head, and a pooler that the file lacks) are drawn and mean nothing. Raises ModelRefused.
    """
    base, missing = _open_base(directory, like, fresh_head=True)
    prefix = base.model.base_model_prefix + "."
    names = {name for name, _ in base.model.named_parameters() if name.startswith(prefix)}
    return base, names - missing


def _open_base(directory: str | Path, like: Checkpoint, fresh_head: bool) -> tuple[Checkpoint, set[str]]:
    folder = Path(directory)
    config = _read_config(folder)
    names = dict(enumerate(like.labels.names))
    config.id2label, config.label2id = names, {name: index for index, name in names.items()}
    config.problem_type = None
    if not fresh_head:
        _check_head(config)
    model, missing = _read_model(folder, config, fresh_head=fresh_head)
    return _checkpoint(folder, model), missing


def save(model: Model, tokenizer: Tokenizer, directory: str | Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)


def _checkpoint(folder: Path, model: Model) -> Checkpoint:
    tokenizer = _read_tokenizer(folder)
    _agree_on_padding(model, tokenizer)
    model.eval()
    _check_runs(model, tokenizer)
    labels = LabelSpace.of(model.config.id2label)
    return Checkpoint(model, tokenizer, labels, _longest(model, tokenizer))


def _read_config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise ModelRefused(f"{folder.name} has no config.json: give the folder of a Hugging Face checkpoint")
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "auto_map" in raw:
            raise ModelRefused(
                "the checkpoint brings its own code (auto_map): only built-in architectures are treated"
            )
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefused(f"config.json cannot be used: {error}") from error
    if config.problem_type not in (None, "single_label_classification"):
        raise ModelRefused(f"{config.problem_type} is not treated: only one label out of several")
    if config.num_labels < 2:
        raise ModelRefused("the model has one output: only classifiers with two or more classes are treated")
    return config


def _check_head(config: Any) -> None:
    """Refuse what was saved with another head: a token classifier's may have the same name and shape."""
    for name in config.architectures or ():
        if not str(name).endswith("ForSequenceClassification"):
            raise ModelRefused(f"the checkpoint is a {name!s:.80}: give one saved as ...ForSequenceClassification")


def _read_model(folder: Path, config: Any, fresh_head: bool) -> tuple[Model, set[str]]:
    """The model, and the names of the weights that the file lacks: of the head or pooler, and with `fresh_head`."""
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelRefused(
            f"{config.model_type} cannot be opened as a sequence classifier: transformers has no such head for it"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelRefused(f"{folder.name} has no .safetensors weights")
    try:
        with quiet():
            model, facts = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=fresh_head,
            )
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelRefused(f"{config.model_type} cannot be opened as a sequence classifier: {error}") from error
    head = _head_names(model)
    missing = sorted(name for name in facts["missing_keys"] if not (fresh_head and name in head))
    if missing:
        raise ModelRefused(f"weights are missing from the checkpoint: {', '.join(missing[:5])}", missing=missing[:50])
    if fresh_head:
        _draw_head(model, head)
    return model, set(facts["missing_keys"])


def _head_names(model: Model) -> set[str]:
    """Parameters outside the encoder: those whose name does not begin with the base model's prefix."""
    prefix = model.base_model_prefix + "."
    head = {name for name, _ in model.named_parameters() if not name.startswith(prefix)}
    # An encoder saved without its pooler is still a base: BERT's pooler is drawn with the head.
    return head | {name for name, _ in model.named_parameters() if ".pooler." in name}


def _draw_head(model: Model, head: set[str]) -> None:
    """Draw what lies outside the encoder anew: the base's own head would carry over what it was trained for."""
    deviation = getattr(model.config, "initializer_range", 0.02)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in head and ".pooler." not in name:
                if parameter.dim() > 1:
                    parameter.normal_(0.0, deviation)
                else:
                    parameter.fill_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)


def _read_tokenizer(folder: Path) -> Tokenizer:
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizer files fail in many ways, some with bare Exception
        raise ModelRefused(f"the tokenizer of {folder.name} cannot be opened: {error}") from error
    if not tokenizer(PROBE)["input_ids"]:
        raise ModelRefused(f"the tokenizer of {folder.name} makes no tokens: its files are incomplete")
    return tokenizer


def _agree_on_padding(model: Model, tokenizer: Tokenizer) -> None:
    """Give a decoder without pad token one, and tell the config: its head reads the last token that is no padding."""
    if tokenizer.pad_token_id is None:
        last = tokenizer(PROBE)["input_ids"][-1]
        candidates = [tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token]
        usable = [token for token in candidates if token and tokenizer.convert_tokens_to_ids(token) != last]
        if not usable:
            raise ModelRefused("the tokenizer has no token that can serve as padding: name a pad_token")
        tokenizer.pad_token = usable[0]
    config = model.config.get_text_config()
    if config.pad_token_id is None or config.pad_token_id < 0:
        config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    words = _words(model)
    if words is not None and not 0 <= config.pad_token_id < words:
        raise ModelRefused(f"the pad token {config.pad_token_id} lies outside the vocabulary of the weights")


def _words(model: Model) -> int | None:
    """The number of tokens that the model knows; None where it looks none up in a table."""
    try:
        return len(model.get_input_embeddings().weight)
    except (NotImplementedError, AttributeError):
        return None


def _check_runs(model: Model, tokenizer: Tokenizer) -> None:
    """Refuse a model that does not answer for token ids and their mask: it wants more, or its config is no good."""
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]])
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    except Exception as error:  # whatever an architecture raises
        kind = model.config.model_type
        raise ModelRefused(f"{kind} does not run on token ids and a mask alone: {error!s:.300}") from error
    if logits.shape != (1, model.config.num_labels):
        raise ModelRefused(
            f"the model gives logits {tuple(logits.shape)} for a text and {model.config.num_labels} classes"
        )


def _longest(model: Model, tokenizer: Tokenizer) -> int:
    """The most tokens the model reads. RoBERTa's positions begin after its padding index, so it reads fewer."""
    limits = [int(tokenizer.model_max_length)]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            offset = module.padding_idx + 1 if module.padding_idx is not None else 0
            limits.append(module.num_embeddings - offset)
    return min(limits)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and reports out of the caller's output."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
