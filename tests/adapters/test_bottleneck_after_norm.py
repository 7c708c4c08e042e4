"""Bottleneck adapters behind the norm of BERT and its relatives; AdapterHub's numbers for it: test_bottleneck.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel

from burnish.adapters.attach import attach
from burnish.adapters.bottleneck import BottleneckConfig
from burnish.core.errors import UserError
from burnish.models.forward import hidden_states
from burnish.models.fuse import fuse
from burnish.models.sublayers import RESIDUAL
from tests.adapters.common import logits, randomize
from tests.support.tiny import tiny, tiny_inputs

KINDS = {
    "bert": "BertConfig",
    "deberta": "DebertaConfig",
    "electra": "ElectraConfig",
    "roberta": "RobertaConfig",
    "xlm-roberta": "XLMRobertaConfig",
}
"""Configuration classes by ``model_type``."""


def small(kind: str) -> nn.Module:
    """Two layers of width 8, random."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = getattr(transformers, KINDS[kind])(vocab_size=20, max_position_embeddings=16, **sizes)
    torch.manual_seed(0)
    model: nn.Module = AutoModel.from_config(config).double().eval()
    return model


@pytest.mark.parametrize("kind", RESIDUAL)
def test_every_architecture_by_its_own_norm(kind: str) -> None:
    """What a norm is given is z + f(LayerNorm(z)), with f by hand and the norm computed in plain arithmetic:
    (z - mean) / sqrt(var + eps) * weight + bias. DeBERTa's norm is a class of its own. At the start nothing changes."""
    model: Any = small(kind)
    ids = {"input_ids": torch.tensor([[3, 7, 1, 12, 5]])}
    with torch.no_grad():
        base = model(**ids).last_hidden_state
        attached = attach(model, BottleneckConfig(form="after-norm", width=2, placement="both"))
        assert len(attached.placed) == 4
        assert torch.equal(model(**ids).last_hidden_state, base)
        randomize(attached.trainable())
        item: Any = attached.placed[-1]
        seen: list[tuple[Tensor, Tensor]] = []
        before = item.adapter.before
        item.adapter.before = lambda host, args, kwargs: (
            seen.append((args[0], (given := before(host, args, kwargs))[0][0])) or given
        )
        assert not torch.allclose(model(**ids).last_hidden_state, base, atol=1e-3)
    (z, given), norm = seen[0], item.site.host
    eps = getattr(norm, "eps", None) or norm.variance_epsilon
    normed = (z - z.mean(-1, keepdim=True)) / (z.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
    normed = normed * norm.weight + norm.bias
    a = item.adapter
    down, up = a.down.double(), a.up.double()
    change = (normed @ down.T + a.down_bias.double()).relu() @ up.T + a.up_bias.double()
    torch.testing.assert_close(given, z + change, atol=1e-6, rtol=1e-6)  # DeBERTa's norm computes in fp32


@pytest.mark.parametrize("placement", ["feed-forward", "both"])
def test_packed_rows_are_as_alone_and_every_adapter_learns(placement: Any) -> None:
    """To the bit the base at the start; hidden states of two packed rows are those of each alone, where layers would be
    fused too: these are left to the model's own code. Every adapter is reached by a gradient."""
    model, inputs = tiny("bert"), tiny_inputs("bert")
    base = logits(tiny("bert"), inputs)
    attached = attach(model, BottleneckConfig(form="after-norm", placement=placement))
    assert torch.equal(logits(model, inputs), base)
    randomize(attached.trainable())
    assert not torch.allclose(logits(model, inputs), base, atol=1e-3)
    rows = [torch.tensor([3, 7, 1, 12, 5]), torch.tensor([9, 2, 4])]
    pack = {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(5), torch.arange(3)])[None],
        "segment_lengths": (5, 3),
    }
    fuse(model)
    packed = hidden_states(model, pack)[0]
    alone = torch.cat([hidden_states(model, {"input_ids": row[None]})[0] for row in rows])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
    packed.pow(2).sum().backward()
    assert attached.without_gradient() == []


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_others_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="no norm behind the residual") as caught:
        attach(tiny(name), BottleneckConfig(form="after-norm"))
    assert "form=sequential" in caught.value.fix
