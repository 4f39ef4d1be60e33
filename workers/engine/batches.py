"""Texts to token ids, once, and token ids to batches of like length.

Guarantees: every row is padded on the right with the model's pad id and masked, so a row's logits do not depend on
the rows beside it; evaluation visits each row once; the training order depends on the generator alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from workers.engine.loading import Checkpoint, Model

STATES = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
CHUNK = 8  # batches that are sorted by length together: random order kept, little padding


@dataclass(frozen=True)
class Tokens:
    """Token ids of n texts; `truncated` counts those that were cut."""

    ids: tuple[tuple[int, ...], ...]
    truncated: int

    def __len__(self) -> int:
        return len(self.ids)

    def pick(self, rows: Sequence[int]) -> Tokens:
        """The given rows, in that order."""
        return Tokens(tuple(self.ids[row] for row in rows), 0)


def tokenize(checkpoint: Checkpoint, texts: Sequence[str], max_length: int) -> Tokens:
    """Token ids with special tokens, cut to `max_length` or to what the model reads."""
    limit = min(max_length, checkpoint.longest)
    if not texts:
        return Tokens((), 0)
    encode = checkpoint.tokenizer
    cut = encode(list(texts), truncation=True, max_length=limit, padding=False, return_attention_mask=False)[
        "input_ids"
    ]
    reached = [row for row, ids in enumerate(cut) if len(ids) >= limit]
    whole = encode([texts[row] for row in reached], truncation=False, padding=False)["input_ids"] if reached else []
    truncated = sum(len(ids) > limit for ids in whole)
    # An empty text is no token at all for a decoder: one pad token stands for it.
    pad = int(checkpoint.tokenizer.pad_token_id)
    return Tokens(tuple(tuple(ids) or (pad,) for ids in cut), truncated)


def pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both int64 [n, longest row]."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [pad_id] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def forward(model: Model, tokens: Tokens, rows: Sequence[int]) -> torch.Tensor:
    """Logits [len(rows), classes] in float32 of the given rows."""
    ids, mask = _padded(model, tokens, rows)
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits.float()


def forward_with_states(
    model: Model, tokens: Tokens, rows: Sequence[int]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
    """Logits as `forward`, the hidden states [len(rows), tokens, width] after each layer, and the attention mask.

    Of an encoder with a decoder, which reads the same tokens, those of both; none of a model that gives none.
    """
    ids, mask = _padded(model, tokens, rows)
    found = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    stacks = (found.get(name) or () for name in STATES)
    return found.logits.float(), tuple(state for stack in stacks for state in stack[1:]), mask


def _padded(model: Model, tokens: Tokens, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    pad_id = int(model.config.get_text_config().pad_token_id)
    return pad([tokens.ids[row] for row in rows], pad_id, model.device)


def by_length(tokens: Tokens, size: int) -> list[list[int]]:
    """All rows in batches of at most `size`, longest first (so that memory runs out at once or not at all)."""
    order = sorted(range(len(tokens)), key=lambda row: (-len(tokens.ids[row]), row))
    return [order[start : start + size] for start in range(0, len(order), size)]


def endless(tokens: Tokens, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Batches of `size` rows (or all rows, if fewer) for ever: each epoch visits every row, in a new random order."""
    size = min(size, len(tokens))
    order: list[int] = []
    while True:
        while len(order) < size * CHUNK:
            order += torch.randperm(len(tokens), generator=generator).tolist()
        chunk, order = order[: size * CHUNK], order[size * CHUNK :]
        chunk.sort(key=lambda row: len(tokens.ids[row]))
        batches = [chunk[start : start + size] for start in range(0, len(chunk), size)]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[place]


def predict(model: Model, tokens: Tokens, size: int) -> torch.Tensor:
    """Logits [n, classes], float32 on the CPU, without gradients, in the order of the rows."""
    if not len(tokens):
        return torch.empty(0, int(model.config.num_labels))
    found = torch.empty(len(tokens), int(model.config.num_labels))
    with torch.no_grad():
        for rows in by_length(tokens, size):
            found[rows] = forward(model, tokens, rows).cpu()
    return found
