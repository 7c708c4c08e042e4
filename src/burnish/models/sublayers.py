"""Where something can run beside an attention or a feed-forward: the module around it, as data.

A parallel adapter reads the input of a sublayer and adds to its output, ``y = sublayer(x) + f(x)`` (He et al., 2022,
section 3.2). Most architectures have a module around each sublayer that is called with x and returns y. BERT and its
relatives have none around their feed-forward, but a module that is called with the sublayer's inner activations and
with x, and adds the two up: ``output(inner, x) = LayerNorm(W inner + x)``. There f(x) goes in with x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from burnish.core.errors import UserError
from burnish.models.anatomy import ANATOMY, Site, compiled, numbered_modules

Part = Literal["attention", "mlp"]
Edge = Literal["around", "residual"]
"""``around``: the host is called with x and returns y. ``residual``: it is called with (inner, x)."""

_ATTENTION, _MLP = "attention", "mlp"
_CALLED: Mapping[str, str] = {_ATTENTION: "attention", _MLP: "feed-forward"}

# Regular expressions on the end of a module's name, as in models/anatomy.py.
_USUAL = {_ATTENTION: "self_attn", _MLP: "mlp"}
_GPT = {_ATTENTION: "(attn|crossattention)", _MLP: "mlp"}
_BLOOM = {_ATTENTION: "self_attention", _MLP: "mlp"}
_T5 = {_ATTENTION: "(SelfAttention|EncDecAttention)", _MLP: "DenseReluDense"}
_BART = {_ATTENTION: "(self_attn|encoder_attn)"}  # fc1 and fc2 lie in the layer itself
_OTHERS = {
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "modernbert"), _GPT),
    **dict.fromkeys(("bloom", "falcon"), _BLOOM),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    **dict.fromkeys(("bart", "biogpt", "blenderbot", "m2m_100", "marian", "mbart", "opt", "pegasus"), _BART),
    "gpt_neox": {_ATTENTION: "attention", _MLP: "mlp"},
    "distilbert": {_ATTENTION: "attention", _MLP: "ffn"},
}
_RESIDUAL = {_ATTENTION: r"(attention|crossattention)\.output", _MLP: r"\d+\.output"}
RESIDUAL = ("bert", "deberta", "electra", "roberta", "xlm-roberta")
"""The architectures whose edge is the residual one."""

SUBLAYERS: Mapping[str, Mapping[str, str]] = {
    name: _RESIDUAL if name in RESIDUAL else _OTHERS.get(name, _USUAL) for name in ANATOMY
}


@dataclass(frozen=True)
class Sublayer:
    """A module beside which an adapter can run, and how it is called."""

    site: Site
    edge: Edge


def sublayers(model: PreTrainedModel, part: Part) -> list[Sublayer]:
    """Every attention (self- and cross-attention alike), or every feed-forward, of a model's layers.

    Raises:
        UserError: The architecture is not known, or has no such module.
    """
    model_type, called = model.config.model_type, _CALLED[part]
    if model_type not in SUBLAYERS:
        raise UserError(
            f"`{model_type}` is not in the table of architectures, so it is not known what lies around its {called}",
            where=f"model_type {model_type}",
            fix="use `form=sequential` with `targets=re:PATTERN`, or enter it in burnish/models/sublayers.py",
        )
    edge: Edge = "residual" if model_type in RESIDUAL else "around"
    patterns = compiled({r: p for r, p in SUBLAYERS[model_type].items() if r == part})
    found = [
        Sublayer(Site(name, part, module, layer), edge)
        for name, module, layer in numbered_modules(model)
        if layer is not None and any(pattern.search(name) for _, pattern in patterns)
    ]
    if not found:
        raise UserError(
            f"`{model_type}` models have no module around their {called}: its maps lie in the layer itself",
            where=f"model_type {model_type}",
            fix="use `form=sequential`, or another `placement`",
        )
    return found
