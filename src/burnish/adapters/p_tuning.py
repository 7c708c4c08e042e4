"""P-tuning: a small network makes the vectors in front of every row (Liu et al., 2021, arXiv:2103.10385).

Shapes: P virtual tokens, D width of the embeddings, H width of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters import prompt as prompt_tuning
from burnish.adapters.base import MethodConfig, Parts, Placed, method
from burnish.adapters.prompts import (
    EMBEDDINGS,
    Prompt,
    VirtualTokensConfig,
    embedded,
    parts_of,
    peft_values,
    read_embeddings,
    refuse_no_room,
    refuse_unread,
    width_of,
)
from burnish.core.config import build
from burnish.core.errors import UserError

_SEED_STREAM = 0x9711
_OWN = "burnish."
"""Before the names of the network's tensors in the adapter's file; `peft` takes no notice of them."""


class PTuningConfig(VirtualTokensConfig):
    """A small network that makes the vectors in front of every row; the model itself stays frozen."""

    method: Literal["p-tuning"] = "p-tuning"
    encoder: Literal["mlp", "lstm"] = "mlp"
    """The network over P learned inputs: three linear layers, or a bidirectional LSTM with two linear layers behind it,
    so that each vector knows the others."""
    encoder_width: int | None = Field(None, ge=1)
    """Width H of the network; the model's own if it is not given."""


class Recurrent(nn.Module):
    """A bidirectional LSTM of two layers and two linear layers, [P, D] to [P, D]."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, inner, num_layers=2, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(2 * inner, 2 * inner), nn.ReLU(), nn.Linear(2 * inner, width))

    def forward(self, seeds: Tensor) -> Tensor:
        """The vectors of seeds [P, D]."""
        return self.head(self.lstm(seeds)[0])


def _mlp(width: int, inner: int) -> nn.Module:
    sides = [(width, inner), (inner, inner), (inner, width)]
    layers = [layer for a, b in sides for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


NETWORKS: Mapping[str, Callable[[int, int], nn.Module]] = {"mlp": _mlp, "lstm": Recurrent}
"""As in `peft`'s PromptEncoder, without its dropout."""


class MadePrompt(Prompt):
    """``prompt = network(seeds)``, in fp32; seeds start as standard normal numbers, as in `peft`.

    The network runs in every forward pass, on P inputs only: nothing is cached that could grow stale.

    Args:
        count: P.
        width: D.
        encoder: Key of ``NETWORKS``.
        inner: H.
        seed: Seed of the initial values.
        keep: Whether the places stay in the output.
    """

    def __init__(self, count: int, width: int, encoder: str, inner: int, seed: int, *, keep: bool = False) -> None:
        super().__init__(count, keep=keep)
        with torch.random.fork_rng(devices=[]):  # the library's layers draw from the global state
            torch.manual_seed(seed * 1_000_003 + _SEED_STREAM)
            self.seeds = nn.Parameter(torch.randn(count, width))
            self.network = NETWORKS[encoder](width, inner)

    def vectors(self) -> Tensor:
        """The prompt, [P, D]."""
        return self.network(self.seeds)


def _parts(model: PreTrainedModel, config: PTuningConfig, seed: int) -> Parts:
    sample = embedded(model, torch.zeros(1, dtype=torch.long))
    width = sample.shape[-1]
    inner = config.encoder_width or width
    count, encoder, device = config.num_virtual_tokens, config.encoder, sample.device
    return parts_of(model, lambda keep: MadePrompt(count, width, encoder, inner, seed, keep=keep).to(device))


def _to_peft(config: MethodConfig, placed: tuple[Placed, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    made = placed[0].adapter
    assert isinstance(made, MadePrompt) and isinstance(config, PTuningConfig)
    with torch.no_grad():
        vectors = made.vectors()
    values = {
        **peft_values(made, vectors.shape[1]),
        "encoder_reparameterization_type": config.encoder.upper(),
        "encoder_hidden_size": config.encoder_width or vectors.shape[1],
        "encoder_num_layers": 2,
        "encoder_dropout": 0.0,
    }
    # `peft` keeps the vectors only; the network lies beside them, so that the training can go on and be checked
    own = {_OWN + name: tensor for name, tensor in made.state_dict().items()}
    return values, {EMBEDDINGS: vectors, **own}


def _from_peft(
    model: PreTrainedModel, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[MethodConfig, Parts]:
    own = {name.removeprefix(_OWN): tensor for name, tensor in tensors.items() if name.startswith(_OWN)}
    if not own:  # `peft` keeps no network: what is left is a prompt like any other
        return prompt_tuning.from_peft(model, values, tensors)
    refuse_unread(values, tensors, {EMBEDDINGS, *(_OWN + name for name in own)})
    width = width_of(model)
    inner = values.get("encoder_hidden_size")
    given = {
        "num_virtual_tokens": values.get("num_virtual_tokens"),
        "encoder": str(values.get("encoder_reparameterization_type")).lower(),
        "encoder_width": None if inner == width else inner,
    }
    config = build(PTuningConfig, given, where="adapter_config.json")
    read_embeddings(tensors, (config.num_virtual_tokens, width))
    parts = _parts(model, config, 0)
    try:
        parts.placed[0].adapter.load_state_dict(own)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        fix = "load it onto the base it was trained on, or save it again"
        raise UserError(
            f"the prompt's network does not fit: {first}", where="adapter_model.safetensors", fix=fix
        ) from None
    return config, parts


@method(
    "p-tuning",
    PTuningConfig,
    learning_rate=1e-3,
    reason="a network of random weights is trained from the start, which AdamW does well at 1e-3",
    identity=False,
    format="peft",
    peft_type="P_TUNING",
    to_peft=_to_peft,
    from_peft=_from_peft,
    bare=True,
    unsaid=("encoder_width",),
)
def p_tuning(model: PreTrainedModel, config: PTuningConfig, seed: int) -> Parts:
    """Vectors in front of every row, made by a network.

    Raises:
        UserError: They leave no room for a row.
    """
    refuse_no_room(model, config.num_virtual_tokens)
    return _parts(model, config, seed)
