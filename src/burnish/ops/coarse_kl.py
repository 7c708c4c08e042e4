"""KL divergence from a distribution of which the k most likely tokens were kept.

Shapes: N positions, K tokens that were kept, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def top_tokens(logits_NV: Tensor, k: int, norm_N1: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k most likely tokens of every position, and their log-probabilities.

    Args:
        logits_NV: Logits of a chunk of positions.
        k: How many are kept; at most V.
        norm_N1: The logarithm of the sum of their exponentials, where it is known already.

    Returns:
        Ids [N, K], the most likely first, and log-probabilities [N, K], fp32.
    """
    values, ids = logits_NV.topk(min(k, logits_NV.shape[1]), dim=-1)
    norm = logits_NV.logsumexp(-1, keepdim=True) if norm_N1 is None else norm_N1
    return ids, (values - norm).float()


def coarse_kl(kept_NK: Tensor, other_NK: Tensor) -> Tensor:
    """``KL(p || q)`` [N] in nats with all tokens that were not kept taken as one, fp64.

        sum_i p_i (log p_i - log q_i) + p_rest (log p_rest - log q_rest),  p_rest = 1 - sum_i p_i.

    It is exact where everything was kept. Else it is a lower bound: by the log-sum inequality (Cover & Thomas, 2006,
    theorem 2.7.1) joining outcomes never raises a divergence.

    Args:
        kept_NK: ``log p`` of the kept tokens.
        other_NK: ``log q`` of the same tokens.
    """
    p, q = kept_NK.double(), other_NK.double()
    inner = (p.exp() * (p - q)).sum(-1)
    # rounding may leave a sum just above one; a rest of nothing adds nothing
    p_rest, q_rest = ((1 - one.exp().sum(-1)).clamp_min(0) for one in (p, q))
    rest = torch.where(p_rest > _LEAST, p_rest * (p_rest.clamp_min(_LEAST) / q_rest.clamp_min(_LEAST)).log(), 0.0)
    return (inner + rest).clamp_min(0)


_LEAST = 1e-6
"""A rest below this is rounding of fp32 log-probabilities."""
