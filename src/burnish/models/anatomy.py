"""The parts of a model by role, as data: which module is a query projection, which belongs to which layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.core.names import nearest

Role = Literal[
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.qkv",
    "attention.output",
    "mlp.gate",
    "mlp.up",
    "mlp.gate_up",
    "mlp.down",
    "attention",  # a whole attention, or what adds one to its residual (models/sublayers.py)
    "mlp",  # the same of a feed-forward
    "norm",  # a layer norm or RMS norm
    "backbone",  # the model without its head
    "linear",  # a linear map inside a layer whose part is not known
    "outside",  # a linear map outside the layers, such as a pooler
    "embedding",
    "head",
]

ALL_LINEAR = "all-linear"

_Q, _K, _V, _QKV, _O = "attention.query", "attention.key", "attention.value", "attention.qkv", "attention.output"
_GATE, _UP, _BOTH, _DOWN = "mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down"

# Regular expressions on the end of a module's name.
_GATED = {
    _Q: "q_proj",
    _K: "k_proj",
    _V: "v_proj",
    _O: "o_proj",
    _GATE: "gate_proj",
    _UP: "up_proj",
    _DOWN: "down_proj",
}
_FC = {_UP: "fc1", _DOWN: "fc2"}
_NEOX = {_QKV: "query_key_value", _O: r"(self_)?attention\.dense", _UP: "dense_h_to_4h", _DOWN: "dense_4h_to_h"}
_BERT = {
    _Q: r"attention\.self\.query",
    _K: r"attention\.self\.key",
    _V: r"attention\.self\.value",
    _O: r"attention\.output\.dense",
    _UP: r"intermediate\.dense",
    _DOWN: r"\d+\.output\.dense",
}
_T5 = {
    _Q: r"(Self|EncDec|)Attention\.q",
    _K: r"(Self|EncDec|)Attention\.k",
    _V: r"(Self|EncDec|)Attention\.v",
    _O: r"(Self|EncDec|)Attention\.o",
    _GATE: "wi_0",
    _UP: "wi(_1)?",
    _DOWN: "wo",
}
_BART = {_Q: "q_proj", _K: "k_proj", _V: "v_proj", _O: "out_proj", **_FC}

ANATOMY: Mapping[str, Mapping[str, str]] = {
    "bart": _BART,
    "bert": _BERT,
    "biogpt": _BART,
    "blenderbot": _BART,
    "bloom": _NEOX,
    "cohere": _GATED,
    "cohere2": _GATED,
    "deberta": {**_BERT, _QKV: r"attention\.self\.in_proj"},
    "distilbert": {_Q: "q_lin", _K: "k_lin", _V: "v_lin", _O: "out_lin", _UP: r"ffn\.lin1", _DOWN: r"ffn\.lin2"},
    "electra": _BERT,
    "falcon": _NEOX,
    "gemma": _GATED,
    "gemma2": _GATED,
    "gemma3_text": _GATED,
    "gpt2": {_QKV: r"attn\.c_attn", _O: r"attn\.c_proj", _UP: r"mlp\.c_fc", _DOWN: r"mlp\.c_proj"},
    "gpt_neo": {_Q: "q_proj", _K: "k_proj", _V: "v_proj", _O: "out_proj", _UP: r"mlp\.c_fc", _DOWN: r"mlp\.c_proj"},
    "gpt_neox": _NEOX,
    "gptj": {_Q: "q_proj", _K: "k_proj", _V: "v_proj", _O: "out_proj", _UP: r"mlp\.fc_in", _DOWN: r"mlp\.fc_out"},
    "granite": _GATED,
    "llama": _GATED,
    "m2m_100": _BART,
    "marian": _BART,
    "mbart": _BART,
    "mistral": _GATED,
    "mixtral": _GATED,
    "modernbert": {_QKV: r"attn\.Wqkv", _O: r"attn\.Wo", _BOTH: r"mlp\.Wi", _DOWN: r"mlp\.Wo"},
    "mt5": _T5,
    "olmo": _GATED,
    "olmo2": _GATED,
    "olmo3": _GATED,
    "opt": _BART,
    "pegasus": _BART,
    "phi": {_Q: "q_proj", _K: "k_proj", _V: "v_proj", _O: r"self_attn\.dense", **_FC},
    "phi3": {_QKV: "qkv_proj", _O: "o_proj", _BOTH: "gate_up_proj", _DOWN: "down_proj"},
    "qwen2": _GATED,
    "qwen3": _GATED,
    "qwen3_moe": _GATED,
    "roberta": _BERT,
    "smollm3": _GATED,
    "stablelm": _GATED,
    "starcoder2": {_Q: "q_proj", _K: "k_proj", _V: "v_proj", _O: "o_proj", _UP: r"mlp\.c_fc", _DOWN: r"mlp\.c_proj"},
    "t5": _T5,
    "umt5": _T5,
    "xlm-roberta": _BERT,
}


@dataclass(frozen=True)
class Site:
    """One module that an adapter can hang on.

    Attributes:
        name: Its name in the model: "model.layers.0.self_attn.q_proj".
        role: Its part.
        host: The module itself: a linear map, GPT-2's Conv1D, or an embedding.
        layer: The running number of its layer (the decoder's follow the encoder's), or None outside the layers.
    """

    name: str
    role: Role
    host: nn.Module
    layer: int | None


def sites(model: PreTrainedModel) -> list[Site]:
    """Every linear map, Conv1D and embedding of a model, in the order of its modules.

    A model type without an entry in ``ANATOMY`` is walked by its structure: its linear maps inside layers get the role
    ``linear``, and no guess is made about their part.
    """
    patterns = compiled(ANATOMY.get(model.config.model_type, {}))
    head = model.get_output_embeddings()
    return [
        Site(name, _role(name, module, layer, head, patterns), module, layer)
        for name, module, layer in numbered_modules(model)
        if isinstance(module, (nn.Linear, Conv1D, nn.Embedding))
    ]


def norms(model: PreTrainedModel) -> list[Site]:
    """Every norm of a model, in the order of its modules: the modules of a class `...Norm` that carry one vector.

    Norms of single heads (Qwen3's ``q_norm``) are among them.
    """
    return [
        Site(name, "norm", module, layer)
        for name, module, layer in numbered_modules(model)
        if type(module).__name__.endswith("Norm") and (weight := module._parameters.get("weight")) is not None
        if weight.dim() == 1
    ]


def numbered_modules(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module, int | None]]:
    """Every module with its name and the running number of the layer that it lies in, None outside the layers."""
    numbered = {id(module): index for index, module in layers(model)}
    names = {name: numbered[id(module)] for name, module in model.named_modules() if id(module) in numbered}
    for name, module in model.named_modules():
        yield name, module, next((number for prefix, number in names.items() if name.startswith(prefix + ".")), None)


def layers(model: PreTrainedModel) -> list[tuple[int, nn.Module]]:
    """The transformer layers with their running numbers; for an encoder-decoder the encoder's come first.

    A stack of layers is an outermost ``ModuleList`` of modules of one class with linear maps inside.
    """
    stacks: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        if any(name.startswith(outer + ".") for outer, _ in stacks):
            continue
        if isinstance(module, nn.ModuleList) and _is_stack(module):
            stacks.append((name, module))
    longest = max((len(stack) for _, stack in stacks), default=0)
    # Short lists beside the layers (projections per modality, auxiliary heads) are no stacks.
    whole = [stack for _, stack in stacks if 2 * len(stack) >= longest]
    return list(enumerate(layer for stack in whole for layer in stack))


def layers_below(model: PreTrainedModel, names: Iterable[str]) -> dict[str, int]:
    """How many layers lie between each of these parameters and the top: 0 for the last layer and all behind it.

    With L layers, running number l counts ``L - 1 - l``, and embeddings count L, with all else in a module of the name
    ``embeddings``; an encoder lies below its decoder. An embedding table that is the head too counts as an embedding.
    What else lies outside the layers, such as the norm of an encoder below a decoder, counts 0.

    Args:
        model: The model.
        names: Names of parameters.
    """
    total = len(layers(model))
    numbered = {name: number for name, _, number in numbered_modules(model) if number is not None}
    first = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    inputs = tuple({name.rpartition(".")[0] + "." for name in first if "embeddings" in name.rpartition(".")[0]})
    found = {}
    for name in names:
        parents = [name[: match.start()] for match in re.finditer(r"\.", name)]
        number = next((numbered[parent] for parent in reversed(parents) if parent in numbered), None)
        is_input = any(parent in first for parent in parents) or (inputs and name.startswith(inputs))
        found[name] = total - 1 - number if number is not None else total if is_input else 0
    return found


def select(model: PreTrainedModel, targets: str | Sequence[str], among: Sequence[Site] | None = None) -> list[Site]:
    """The sites that targets name, in the order of the model's modules.

    A target is `all-linear` (every linear map inside the layers; not the head), a role (`attention.query`) or the group
    of its first word (`attention`, `mlp`), the end of a module name (`q_proj`, `self_attn.q_proj`), or `re:` and a
    regular expression that is searched for in the whole name.

    Args:
        model: The model.
        targets: One target or several; several are joined.
        among: The sites to choose from; by default ``sites(model)``.

    Raises:
        UserError: No target, an expression that is none, or a target that matches nothing; it names the nearest.
    """
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if not wanted:
        raise UserError("`targets` is empty, so nothing would be trained", fix=f"`targets: {ALL_LINEAR}`")
    everything = sites(model) if among is None else among
    chosen: set[str] = set()
    for target in wanted:
        matches = [site.name for site in everything if _matches(site, target)]
        if not matches:
            fix = _nearest_target(target, everything)
            raise UserError(f"`targets: {target}` matches no module of this {model.config.model_type} model", fix=fix)
        chosen.update(matches)
    return [site for site in everything if site.name in chosen]


def report(model: PreTrainedModel) -> list[Finding]:
    """A finding where the anatomy of this model type is not known, so that roles other than `linear` do not exist."""
    model_type = model.config.model_type
    if model_type in ANATOMY:
        return []
    names = sorted({site.name.rsplit(".", 1)[-1] for site in sites(model) if site.role == "linear"})
    return [
        Finding(
            "note",
            "anatomy.unknown-architecture",
            f"`{model_type}` is not in the table of architectures; its layers hold the linear maps {', '.join(names)}",
            where=f"model_type {model_type}",
            why="Targets by role (`attention`, `mlp`) cannot be resolved; `all-linear` and module names can.",
            fix="name the modules in `targets`, or use `all-linear`",
            evidence={"modules": names},
        )
    ]


def _role(
    name: str,
    module: nn.Module,
    layer: int | None,
    head: nn.Module | None,
    patterns: Iterable[tuple[Role, re.Pattern[str]]],
) -> Role:
    if module is head:
        return "head"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if layer is None:
        return "outside"
    return next((role for role, pattern in patterns if pattern.search(name)), "linear")


def compiled(table: Mapping[str, str]) -> list[tuple[Role, re.Pattern[str]]]:
    """Roles with their patterns on the end of a module's name."""
    roles: dict[str, Role] = {role: role for role in get_args(Role)}
    return [(roles[role], re.compile(rf"(^|\.)({pattern})$")) for role, pattern in table.items()]


def _is_stack(module: nn.ModuleList) -> bool:
    if not len(module) or len({type(child) for child in module}) != 1:
        return False
    parts = [part for part in module[0].modules() if isinstance(part, (nn.Linear, Conv1D))]
    return len(parts) > 1


def _matches(site: Site, target: str) -> bool:
    if target == ALL_LINEAR:
        return site.layer is not None and site.role not in ("head", "embedding", "outside", "norm")
    if target.startswith("re:"):
        try:
            return re.search(target[3:], site.name) is not None
        except re.error as error:
            fix = "mend the expression after `re:`"
            raise UserError(f"`{target}` is not a regular expression: {error}", where="targets", fix=fix) from None
    if target in _targets_by_role():
        return site.role == target or site.role.startswith(target + ".")
    return site.name == target or site.name.endswith("." + target)


def _targets_by_role() -> set[str]:
    roles = set(get_args(Role))
    return roles | {role.split(".")[0] for role in roles if "." in role}


def _nearest_target(target: str, everything: Sequence[Site]) -> str:
    present = {site.role for site in everything}
    roles = present | {role.split(".")[0] for role in present if "." in role}
    names = {site.name.rsplit(".", 1)[-1] for site in everything} - {""}
    options = sorted(roles | {n for n in names if not n.isdigit()} | {ALL_LINEAR})
    near = nearest(target, options)
    listed = ", ".join(f"`{o}`" for o in options)
    return f"nearest: `{near[0]}`; possible: {listed}" if near else f"one of: {listed}, or `re:EXPRESSION`"
