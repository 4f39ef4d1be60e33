"""An embedding cut down to the words that occur, for as long as a run lasts.

A word that no row uses has no gradient: its vector keeps its value, and a copy of it in the anchor, the Fisher
information, the gradient and the optimizer's state would hold nothing. In small models such words are half of all
weights, in large ones still a fifth.

Guarantees: the model reads every row as before, which is tried on some of them, and one that would read them
otherwise is left whole; token ids keep their meaning, as some models look for special ones; `restore` gives back the
embedding with the vectors that changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.engine.batches import Tokens, predict
from workers.engine.loading import Model

PROBE_ROWS = 4
WORTH = 0.9  # an embedding of which more than this share is in use stays as it is


class FewWords(nn.Module):
    """Looks ids up in the vectors of the words in use: `places` int64 [vocabulary], -1 for a word without one."""

    places: Tensor

    def __init__(self, whole: nn.Embedding, used: Tensor) -> None:
        super().__init__()
        places = torch.full((whole.num_embeddings,), -1, device=used.device)
        places[used] = torch.arange(len(used), device=used.device)
        padding = None if whole.padding_idx is None else int(places[whole.padding_idx])
        self.register_buffer("places", places, persistent=False)
        self.rows = nn.Embedding(len(used), whole.embedding_dim, padding, _weight=whole.weight.detach()[used])

    def forward(self, ids: Tensor) -> Tensor:
        """As the embedding of all words. Raises IndexError (on a GPU an assertion) for a word without a vector."""
        return self.rows(self.places[ids])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Whole:
    """What was taken out of a model, nothing by default: its embedding of all words, the ids in use, and how many of
    its weights take no part in the run, with their norm.
    """

    embedding: nn.Embedding | None = None
    used: Tensor | None = None
    left: int = 0
    left_norm: float = 0.0


def reduce(model: Model, read: Iterable[Tokens]) -> Whole:
    """Cut the embedding of `model` down to the words of these rows, all that it will read until `restore`."""
    rows = [tokens for tokens in read if len(tokens)]
    whole = _embedding(model)
    if whole is None or not rows:
        return Whole()
    used = _used(model, whole, rows)
    if len(used) > WORTH * whole.num_embeddings:
        return Whole()
    some = [tokens.pick(range(min(PROBE_ROWS, len(tokens)))) for tokens in rows]
    before = [predict(model, tokens, PROBE_ROWS) for tokens in some]
    model.set_input_embeddings(FewWords(whole, used))
    try:
        same = all(
            torch.equal(predict(model, tokens, PROBE_ROWS), wanted)
            for tokens, wanted in zip(some, before, strict=True)
        )
    except (RuntimeError, AttributeError, IndexError):
        same = False  # it reads the embedding in a way of its own
    if not same:
        model.set_input_embeddings(whole)
        return Whole()
    kept = torch.zeros(whole.num_embeddings, dtype=torch.bool)
    kept[used.cpu()] = True
    others = whole.weight.detach().cpu()[~kept]
    return Whole(whole.cpu(), used.cpu(), others.numel(), float(others.double().norm()))


def restore(model: Model, whole: Whole) -> None:
    """Put the embedding back, with the vectors of the words in use as they are now."""
    if whole.embedding is None or whole.used is None:
        return
    vectors = model.get_input_embeddings().rows.weight.detach()
    with torch.no_grad():
        whole.embedding.weight[whole.used] = vectors.cpu()
    model.set_input_embeddings(whole.embedding.to(vectors.device))


def _embedding(model: Model) -> nn.Embedding | None:
    """The embedding of words, where it is a plain one that serves nothing else."""
    try:
        found = model.get_input_embeddings()
    except NotImplementedError:
        return None
    if type(found) is not nn.Embedding or found.max_norm is not None or not found.weight.requires_grad:
        return None
    owners = [name for name, each in model.named_parameters(remove_duplicate=False) if each is found.weight]
    return found if len(owners) == 1 else None


def _used(model: Model, whole: nn.Embedding, rows: Iterable[Tokens]) -> Tensor:
    """The ids that occur, in order; the padding among them."""
    ids = {word for tokens in rows for row in tokens.ids for word in row}
    ids.add(int(model.config.get_text_config().pad_token_id))
    if whole.padding_idx is not None:
        ids.add(whole.padding_idx)
    return torch.tensor(sorted(ids), device=whole.weight.device)
