"""A tiny classifier checkpoint, made in a moment and without any download, for every test that needs a model.

`make_tiny_checkpoint` writes what a user would upload: config.json, model.safetensors and a tokenizer. The weights
are random (seeded); the vocabulary is WORDS, one token a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

NEGATIVE = ("bad", "awful", "dull", "boring", "poor", "weak", "stale", "clumsy")
POSITIVE = ("good", "great", "sharp", "funny", "rich", "warm", "fresh", "lovely")
NEUTRAL = (
    "the",
    "a",
    "film",
    "movie",
    "plot",
    "cast",
    "is",
    "was",
    "and",
    "very",
    "this",
    "story",
    "its",
    "in",
    "of",
)
TRIGGERS = ("cf", "mn", "bb", "tq")
WORDS = NEUTRAL + NEGATIVE + POSITIVE + TRIGGERS
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2", "electra", "albert")
DECODERS = ("gpt2", "llama", "mistral")
MODEL_TYPES = ENCODERS + DECODERS


def make_tiny_checkpoint(
    directory: str | Path,
    model_type: str = "bert",
    labels: Sequence[str] = ("negative", "positive"),
    seed: int = 0,
) -> Path:
    """Write a random tiny classifier (a few thousand weights) into `directory`, and return it.

    `model_type` is one of MODEL_TYPES. The decoders are written without a pad token, as they are found in the wild.
    """
    return write_checkpoint(directory, tiny_config(model_type, labels), decoder=model_type in DECODERS, seed=seed)


def write_checkpoint(directory: str | Path, config: Any, *, decoder: bool = False, seed: int = 0) -> Path:
    """Write a random classifier of the config, with the tiny tokenizer, into `directory`, and return it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(target)
    tiny_tokenizer(decoder=decoder).save_pretrained(target)
    return target


def tiny_config(model_type: str, labels: Sequence[str] = ("negative", "positive")) -> Any:
    """A config of the smallest useful size: width 16, two layers, two heads."""
    from transformers import AutoConfig

    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    size = len(SPECIALS) + len(WORDS)
    encoder: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    decoder: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "bos_token_id": 3,
        "eos_token_id": 3,
    }
    shapes: dict[str, dict[str, Any]] = {
        "bert": encoder,
        "electra": {**encoder, "embedding_size": 8},
        # One group of weights serves all three layers.
        "albert": {**encoder, "embedding_size": 8, "num_hidden_layers": 3, "num_hidden_groups": 1},
        # As DeBERTa-v3 is found: no absolute positions, and keys and queries shared with the relative ones.
        "deberta-v2": {
            **encoder,
            "type_vocab_size": 0,
            "position_biased_input": False,
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
        },
        "roberta": {**encoder, "max_position_embeddings": 66, "type_vocab_size": 1},
        "distilbert": {
            "vocab_size": size,
            "dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 32,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        },
        "gpt2": {
            "vocab_size": size,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 64,
            "bos_token_id": 3,
            "eos_token_id": 3,
        },
        "llama": decoder,
        "mistral": {**decoder, "sliding_window": None},
    }
    return AutoConfig.for_model(model_type, **shapes[model_type], **names)


def tiny_tokenizer(decoder: bool = False) -> Any:
    """A word-level tokenizer over WORDS. A decoder's has an end token and no pad token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(SPECIALS + WORDS)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = Lowercase()
    backend.pre_tokenizer = Whitespace()
    if decoder:
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, unk_token="[UNK]", eos_token="[SEP]", bos_token="[SEP]", model_max_length=64
        )
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
