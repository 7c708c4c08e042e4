"""One vector a text from every layer of a model, and how alike two sets of vectors are. Shapes: N texts, D width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.core.types import Batch
from burnish.models.anatomy import layers

Vectors = NDArray[np.float32]


class LayerMeans:
    """The mean over its tokens of every text's hidden states behind every layer; filled while passes are made.

    Args:
        model: The model.
        rows: How many texts there are.
    """

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.model, self.rows = model, rows
        self.found: dict[int, Vectors] = {}
        self._batch: tuple[Sequence[int], Batch] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on the layers as long as the context lasts; they look and change nothing."""
        handles = []
        pairs = self.model.config.is_encoder_decoder
        decoder = {id(module) for module in self.model.get_decoder().modules()} if pairs else set()
        for number, layer in layers(self.model):
            hook = self._hook(number, "decoder_" if id(layer) in decoder else "")
            handles.append(layer.register_forward_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def expect(self, rows: Sequence[int], batch: Batch) -> None:
        """Say which texts the next pass is of."""
        self._batch = rows, batch

    def _hook(self, number: int, side: str) -> Any:
        def see(layer: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if self._batch is None or not isinstance(hidden, Tensor) or hidden.dim() != 3:
                return
            rows, batch = self._batch
            lengths = row_lengths(batch, len(rows), side)
            owners = _owners(hidden, lengths, kwargs.get("segment_lengths"))
            if owners is None:
                return
            store = self.found.setdefault(number, np.zeros((self.rows, hidden.shape[-1]), dtype=np.float32))
            store[list(rows)] = _means(hidden, owners, len(rows)).cpu().numpy()

        return see


def row_lengths(batch: Batch, rows: int, side: str = "") -> list[int]:
    """Tokens of each text of a batch of any layout; of an encoder-decoder's ``decoder_`` side, those of its targets."""
    if "segment_lengths" in batch:
        return list(batch["segment_lengths"][:rows])
    mask: Tensor | None = batch.get(f"{side}attention_mask")  # type: ignore[assignment]
    if mask is not None:
        return [int(n) for n in mask.sum(1)]
    ids: Tensor = batch[f"{side}input_ids"]  # type: ignore[literal-required]
    return [ids.shape[1]] * rows


def _owners(hidden: Tensor, lengths: Sequence[int], segments: Sequence[int] | None) -> Tensor | None:
    """[B * T] which text each place belongs to, -1 for virtual tokens and filling; None where places do not fit.

    Virtual tokens stand before the text: in a pack its places are the last of its segment, and in a padded batch they
    begin behind as many as the batch is longer than its texts.
    """
    places = torch.full(hidden.shape[:2], -1, dtype=torch.long)
    if hidden.shape[0] == 1 and (segments is not None or len(lengths) > 1):
        bounds = list(segments or lengths)
        if sum(bounds) != hidden.shape[1] or len(bounds) < len(lengths):
            return None
        end = 0
        for number, (length, whole) in enumerate(zip(lengths, bounds, strict=False)):
            end += whole
            places[0, end - length : end] = number
        return places.flatten()
    if hidden.shape[0] != len(lengths) or hidden.shape[1] < max(lengths):
        return None
    ahead = hidden.shape[1] - max(lengths)
    for number, length in enumerate(lengths):
        places[number, ahead : ahead + length] = number
    return places.flatten()


def _means(hidden: Tensor, owners: Tensor, count: int) -> Tensor:
    """[N, D] mean of each text's places, as one product with a matrix of shares, so that the order of sums is fixed."""
    owners = owners.to(hidden.device)
    inside = owners[None] == torch.arange(count, device=hidden.device)[:, None]
    shares = inside.float() / inside.sum(1, keepdim=True).clamp_min(1)
    with torch.autocast(hidden.device.type, enabled=False):
        return shares @ hidden.detach().flatten(0, 1).float()


def linear_cka(first: ArrayLike, second: ArrayLike) -> float:
    """Linear centred kernel alignment of two sets of vectors of the same texts (Kornblith et al., 2019, equation 3).

        CKA = ||Y^T X||^2 / (||X^T X|| ||Y^T Y||)  in Frobenius norms, of centred X and Y,

    computed from the [N, N] products, which is the same and cheap for few texts. 1 where the distances between texts
    are the same up to rotation and scale; with fewer texts than dimensions unrelated vectors are well above 0.

    Args:
        first: [N, D1].
        second: [N, D2].
    """
    grams = []
    for one in (first, second):
        centred = np.asarray(one, dtype=np.float64)
        centred = centred - centred.mean(0)
        grams.append(centred @ centred.T)
    norms = float(np.linalg.norm(grams[0]) * np.linalg.norm(grams[1]))
    return float((grams[0] * grams[1]).sum() / norms) if norms > 0 else float("nan")


def cosines(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """[N] cosine of the angle between each text's two vectors."""
    a, b = (np.asarray(one, dtype=np.float64) for one in (first, second))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.maximum(norms, 1e-30)
