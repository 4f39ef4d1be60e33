"""What the speed is measured on: a classifier with random weights and random tokens, the same for every peer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from workers.engine.batches import Tokens
from workers.engine.loading import Model

VOCABULARY = 8000


@dataclass(frozen=True)
class Size:
    """A BERT, and how many rows of how many tokens. `spread`: from 6 to `tokens`, short ones mostly."""

    layers: int
    width: int
    heads: int
    rows: int
    tokens: int
    batch: int
    spread: bool = True


# Rows: as many as a job takes by default (fisher_samples).
MINILM = Size(layers=6, width=384, heads=12, rows=256, tokens=64, batch=16)
BERT_BASE = Size(layers=12, width=768, heads=12, rows=1000, tokens=128, batch=32, spread=False)


def classifier(size: Size, device: torch.device, attention: str = "sdpa") -> Model:
    """In evaluation mode, from one seed whatever the attention."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=size.width, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, intermediate_size=4 * size.width, num_labels=2, pad_token_id=0,
        max_position_embeddings=max(512, size.tokens),
    )  # fmt: skip
    made = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    model: Model = made.to(device).eval()
    return model


def tokens(size: Size) -> Tokens:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.empty(size.rows).log_normal_(3.0, 0.5, generator=generator).long().clamp(6, size.tokens)
    lengths = drawn.tolist() if size.spread else [size.tokens] * size.rows
    rows = (torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths)
    return Tokens(tuple(tuple(row) for row in rows), 0)


def labels(size: Size) -> list[int]:
    return torch.randint(0, 2, (size.rows,), generator=torch.Generator().manual_seed(2)).tolist()


def settle(device: torch.device) -> None:
    """Wait for what a GPU still has to do, so that a clock sees it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
