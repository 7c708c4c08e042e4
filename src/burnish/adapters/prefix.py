"""Prefix tuning: learned keys and values before those of every attention (Li and Liang, 2021, arXiv:2101.00190).

Shapes: P virtual tokens, L attention modules, K key and value heads, E head width, D width, H width of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters.base import Adapter, MethodConfig, Parts, Placed, method
from burnish.adapters.prompts import (
    EMBEDDINGS,
    VirtualTokensConfig,
    initial_ids,
    lengthens,
    read_embeddings,
    refuse_no_room,
    refuse_start,
    refuse_unread,
    resolve_text,
)
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.models.anatomy import Site, layers
from burnish.models.attention import NAME, Seen
from burnish.models.keys import keys_of
from burnish.models.preamble import backbones, by_name, shifted
from burnish.models.route import Joined

_SEED_STREAM = 0x9F1C
_OWN = "burnish."
"""Before the names of the network's tensors in the adapter's file; `peft` takes no notice of them."""


class PrefixConfig(VirtualTokensConfig):
    """Learned keys and values before those of every attention; the model itself stays frozen."""

    method: Literal["prefix"] = "prefix"
    init: Literal["vocabulary", "random", "text"] = "vocabulary"
    """What they start as: the model's own keys and values of P common tokens drawn at random, normal numbers of their
    spread, or the model's own keys and values of `text`. With `reparameterize` the network's first output."""
    text: str = ""
    """The text to start from, repeated or cut to P tokens; with `init: text`."""
    text_ids: tuple[int, ...] = ()
    """The tokens of `text`; a run fills them in with the model's tokenizer."""
    reparameterize: bool = False
    """Let a small network make keys and values from P learned vectors, shared by all layers, as in the paper."""
    encoder_width: int = Field(512, ge=1)
    """Width H of that network."""
    shift_positions: bool = True
    """Count the prefix among the positions, so that a row's tokens begin at P, as `peft` does. Models without position
    ids (T5) have nothing to shift."""


class Prefix(Adapter):
    """Hands keys and values to its host, an attention module, which hands them on to the attention function."""

    rowwise = True
    count: int
    only_adds = True

    def pair(self) -> tuple[Tensor, Tensor]:
        """Keys and values, [P, K, E] and [P, K, E']."""
        raise NotImplementedError

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Add them to the arguments; those of several sets stand behind each other."""
        refuse_other_attention(host)
        key, value = pairs_of([self])
        if "prefix_key" in kwargs:
            key = torch.cat([kwargs["prefix_key"], key])
            value = torch.cat([kwargs["prefix_value"], value])
        return args, {**kwargs, "prefix_key": key, "prefix_value": value}

    @classmethod
    def joined(cls, entries: Sequence[tuple[Any, Sequence[bool]]]) -> Joined:
        """Prefixes that differ from row to row."""
        return RowPrefixes(entries)

    def check_mergeable(self, host: nn.Module) -> None:
        """Refuse: no weight of the base stands for a prefix."""
        raise lengthens(self.count, "keys and values that every layer attends to")


class RowPrefixes(Joined):
    """Prefixes at one attention module, each for its own rows.

    Args:
        entries: Each prefix, and which rows it is for.
    """

    only_adds = True

    def __init__(self, entries: Sequence[tuple[Any, Sequence[bool]]]) -> None:
        self.prefixes = [prefix for prefix, _ in entries]
        ends = list(accumulate(prefix.count for prefix in self.prefixes))
        parts = [range(end - prefix.count, end) for prefix, end in zip(self.prefixes, ends, strict=True)]
        self.chosen = tuple(
            tuple(part for part, (_, rows) in zip(parts, entries, strict=True) if rows[row])
            for row in range(len(entries[0][1]))
        )

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Add all of them to the arguments, and which are whose."""
        refuse_other_attention(host)
        key, value = pairs_of(self.prefixes)
        return args, {**kwargs, "prefix_key": key, "prefix_value": value, "prefix_chosen": self.chosen}


def refuse_other_attention(host: nn.Module) -> None:
    """Refuse a model that was told to use an attention function without prefixes.

    Raises:
        UserError: With its name.
    """
    used = getattr(getattr(host, "config", None), "_attn_implementation", NAME)
    if used != NAME:
        raise UserError(
            f"the model's attention was set to `{used}`, which knows no prefixes: they would be without effect",
            where=type(host).__name__,
            fix=f"`model.set_attn_implementation('{NAME}')`, which gives the same values",
        )


def pairs_of(prefixes: Sequence[Prefix]) -> tuple[Tensor, Tensor]:
    """Keys [P, K, E] and values of several prefixes, one behind the other."""
    with torch.autocast(next(prefixes[0].parameters()).device.type, enabled=False):
        pairs = [prefix.pair() for prefix in prefixes]
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([key for key, _ in pairs]), torch.cat([value for _, value in pairs])


class PlainPrefix(Prefix):
    """The keys and values themselves, kept in fp32 and cast to the format of the host's.

    Args:
        key: [P, K, E] values to start from.
        value: [P, K, E'].
    """

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.count = len(key)
        self.key, self.value = nn.Parameter(key.clone()), nn.Parameter(value.clone())

    def pair(self) -> tuple[Tensor, Tensor]:
        """Keys and values, [P, K, E] and [P, K, E']."""
        return self.key, self.value


class Trunk(nn.Module):
    """What the layers share: ``tanh(W seeds + b)``, [P, H]; seeds [P, D] start as standard normal numbers."""

    def __init__(self, count: int, width: int, inner: int) -> None:
        super().__init__()
        self.seeds, self.map = nn.Parameter(torch.randn(count, width)), nn.Linear(width, inner)

    def forward(self) -> Tensor:
        """[P, H]."""
        return torch.tanh(self.map(self.seeds))


class MadePrefix(Prefix):
    """``[key, value] = W_l trunk() + b_l``: layer l's rows of the paper's last matrix, held at its own site.

    The trunk is one module at all sites. It is computed anew at each, on P rows: nothing is kept between calls, so
    recomputed layers and copies of the model need no care.

    Args:
        trunk: The shared part.
        key: [P, K, E], for the shape only.
        value: [P, K, E'].
    """

    def __init__(self, trunk: Trunk, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.trunk, self.count = trunk, len(key)
        self.shapes = (tuple(key.shape[1:]), tuple(value.shape[1:]))
        self.map = nn.Linear(trunk.map.out_features, key[0].numel() + value[0].numel())

    def pair(self) -> tuple[Tensor, Tensor]:
        """Keys and values, [P, K, E] and [P, K, E']."""
        key, value = self.shapes
        both = self.map(self.trunk()).split([key[0] * key[1], value[0] * value[1]], dim=1)
        return both[0].view(-1, *key), both[1].view(-1, *value)


class Shift(Adapter):
    """At the backbone: positions begin behind the prefix. It has no parameters."""

    rowwise = True

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Shift the positions."""
        return (), shifted(host, by_name(host, args, kwargs), [self.count])

    @classmethod
    def joined(cls, entries: Sequence[tuple[Any, Sequence[bool]]]) -> Joined:
        """Prefixes that differ from row to row."""
        return RowShifts(entries)


class RowShifts(Joined):
    """At the backbone: positions of each row begin behind its own prefixes.

    Args:
        entries: Each shift, and which rows it is for.
    """

    def __init__(self, entries: Sequence[tuple[Any, Sequence[bool]]]) -> None:
        rows = range(len(entries[0][1]))
        self.counts = [sum(shift.count for shift, chosen in entries if chosen[row]) for row in rows]

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Shift the positions."""
        given = by_name(host, args, kwargs)
        fillers = len(given.get("segment_lengths") or self.counts) - len(self.counts)
        return (), shifted(host, given, self.counts + [0] * fillers)


def _started(seen: list[Seen], config: PrefixConfig, seed: int) -> list[tuple[Tensor, Tensor]]:
    """[P, K, E] keys and values of every module to start from."""
    pairs = [(s.key.transpose(0, 1), s.value.transpose(0, 1)) for s in seen]
    if config.init != "random":
        return pairs
    generator = torch.Generator().manual_seed(seed * 1_000_003 + _SEED_STREAM)
    return [(_like(key, generator), _like(value, generator)) for key, value in pairs]


def _like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=generator).to(tensor) * tensor.std()


def _placed(model: PreTrainedModel, seen: list[Seen], adapters: list[Prefix], shift: bool) -> Parts:
    names = {id(module): name for name, module in model.named_modules()}
    numbers = {names[id(layer)]: number for number, layer in layers(model)}
    placed = []
    for item, adapter in zip(seen, adapters, strict=True):
        name = names[id(item.module)]
        number = next((n for prefix, n in numbers.items() if name.startswith(prefix + ".")), None)
        placed.append(Placed(Site(name, "attention", item.module, number), adapter.to(item.key.device)))
    sites = tuple(p.site for p in placed)
    backbone, decoder = backbones(model)
    if shift and decoder is None:
        site = Site(names[id(backbone)], "backbone", backbone, None)
        placed.append(Placed(site, Shift(adapters[0].count)))
    return Parts(placed=tuple(placed), sites=sites)


def _parts(model: PreTrainedModel, config: PrefixConfig, seed: int) -> Parts:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + _SEED_STREAM)
    seen = keys_of(model, initial_ids(model, config.num_virtual_tokens, config.text_ids, generator))
    pairs = _started(seen, config, seed)
    if not config.reparameterize:
        return _placed(model, seen, [PlainPrefix(*pair) for pair in pairs], config.shift_positions)
    with torch.random.fork_rng(devices=[]):  # the library's layers draw from the global state
        torch.manual_seed(seed * 1_000_003 + _SEED_STREAM)
        trunk = Trunk(config.num_virtual_tokens, model.config.get_text_config().hidden_size, config.encoder_width)
        made: list[Prefix] = [MadePrefix(trunk, *pair) for pair in pairs]
    return _placed(model, seen, made, config.shift_positions)


def _prefixes(placed: tuple[Placed, ...]) -> list[Prefix]:
    return [item.adapter for item in placed if isinstance(item.adapter, Prefix)]


@torch.no_grad()
def _fits_peft(config: MethodConfig, placed: tuple[Placed, ...]) -> bool:
    """`peft` keeps one [P, 2 L K E] table and shifts positions; for an encoder-decoder it prefixes the decoder only."""
    shapes = {tuple(t.shape) for prefix in _prefixes(placed) for t in prefix.pair()}
    shifts = any(isinstance(item.adapter, Shift) for item in placed)
    return len(shapes) == 1 and shifts


@torch.no_grad()
def _to_peft(config: MethodConfig, placed: tuple[Placed, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    prefixes = _prefixes(placed)
    pairs = [prefix.pair() for prefix in prefixes]
    table = torch.stack([t for pair in pairs for t in pair], dim=1)  # [P, 2 L, K, E]
    count, _, heads, width = table.shape
    values = {
        "num_virtual_tokens": count,
        "token_dim": heads * width,
        "num_attention_heads": heads,
        "num_layers": len(pairs),
        "num_transformer_submodules": 1,
        "encoder_hidden_size": None,
        "prefix_projection": False,  # what lies in the table is the network's output
        "modules_to_save": None,
    }
    own: dict[str, Tensor] = {}
    for number, prefix in enumerate(prefixes):
        if isinstance(prefix, MadePrefix):
            own |= {f"{_OWN}trunk.{name}": tensor for name, tensor in prefix.trunk.state_dict().items()}
            own |= {f"{_OWN}{number}.{name}": tensor for name, tensor in prefix.map.state_dict().items()}
    return values, {EMBEDDINGS: table.flatten(1), **own}


def _from_peft(
    model: PreTrainedModel, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[MethodConfig, Parts]:
    own = {name.removeprefix(_OWN): tensor for name, tensor in tensors.items() if name.startswith(_OWN)}
    refuse_unread(values, tensors, {EMBEDDINGS, *(_OWN + name for name in own)})
    if backbones(model)[1] is not None:
        raise UserError(
            "`peft`'s prefixes of an encoder-decoder act on its decoder only, and are not read",
            where="adapter_config.json",
            fix="use the adapter through `peft`",
        )
    given = {"num_virtual_tokens": values.get("num_virtual_tokens"), "reparameterize": bool(own)}
    if own:
        given["encoder_width"] = len(own.get("trunk.map.bias", ()))
    config = build(PrefixConfig, given, where="adapter_config.json")
    parts = _parts(model, config, 0)
    prefixes = _prefixes(parts.placed)
    pairs = [prefix.pair() for prefix in prefixes]
    count, numbers = config.num_virtual_tokens, sum(t[0].numel() for pair in pairs for t in pair)
    table = read_embeddings(tensors, (count, numbers))
    if own:
        _fill_networks(prefixes, own)
        return config, parts
    parts_of_table = table.to(pairs[0][0].device).split([t[0].numel() for pair in pairs for t in pair], dim=1)
    with torch.no_grad():
        for target, source in zip((t for pair in pairs for t in pair), parts_of_table, strict=True):
            target.copy_(source.view_as(target))
    return config, parts


def _fill_networks(prefixes: list[Prefix], own: Mapping[str, Tensor]) -> None:
    wanted = {f"trunk.{name}": t for name, t in prefixes[0].trunk.state_dict().items()}
    for number, prefix in enumerate(prefixes):
        wanted |= {f"{number}.{name}": t for name, t in prefix.map.state_dict().items()}
    wrong = sorted(wanted.keys() ^ own.keys()) or [n for n, t in wanted.items() if t.shape != own[n].shape]
    if wrong:
        raise UserError(
            f"the prefix's network does not fit this model: `{_OWN}{wrong[0]}`",
            where="adapter_model.safetensors",
            fix="load it onto the base it was trained on, or save it again",
        )
    for name, tensor in wanted.items():  # these share the memory of the parameters
        tensor.copy_(own[name])


@method(
    "prefix",
    PrefixConfig,
    learning_rate=1e-2,
    reason="keys and values start as those of real tokens and move a frozen model by themselves, so they take large "
    "steps",
    identity=False,
    format="peft",
    peft_type="PREFIX_TUNING",
    to_peft=_to_peft,
    from_peft=_from_peft,
    fits_peft=_fits_peft,
    bare=True,
    unsaid=("init", "text", "text_ids", "encoder_width"),
    resolve=resolve_text,
)
def prefix(model: PreTrainedModel, config: PrefixConfig, seed: int) -> Parts:
    """Keys and values at every attention module.

    Raises:
        UserError: The model's attention takes none, they leave no room for a row, or their start contradicts itself.
    """
    refuse_no_room(model, config.num_virtual_tokens)
    refuse_start(config)
    return _parts(model, config, seed)
