"""LoRA: a low-rank update beside a frozen matrix (Hu et al., 2022, arXiv:2106.09685), with its close variants.

The configuration is in `lora_config`, the forward pass in `lora_layers`, the starts in `lora_init` (those that look at
training rows in `lora_data`) and `peft`'s format in `lora_peft`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from burnish.adapters.base import Parts, Placed, method, site_generator
from burnish.adapters.lora_config import LoraConfig, Plan, plans
from burnish.adapters.lora_data import prepare
from burnish.adapters.lora_init import ANY_HOST, LOFTQ, RESIDUAL
from burnish.adapters.lora_layers import KINDS, LoraAdapter, is_plain_matrix, projection_of, sides
from burnish.adapters.lora_peft import from_peft, to_peft
from burnish.core.errors import UserError
from burnish.models.anatomy import Site, select

__all__ = ["LoraAdapter", "LoraConfig", "lora", "projection_of", "sides"]


@method(
    "lora",
    LoraConfig,
    learning_rate=2e-4,
    reason="LoRA starts at zero and trains few weights, so it takes about ten times the learning rate of full tuning",
    format="peft",
    peft_type="LORA",
    to_peft=to_peft,
    from_peft=from_peft,
    prepare=prepare,
)
def lora(model: PreTrainedModel, config: LoraConfig, seed: int) -> Parts:
    """A low-rank update at every target.

    Raises:
        UserError: A target or a pattern matches nothing, a target has no matrix, the rank exceeds the smaller side of
            one, or the start does not fit it.
    """
    sites = select(model, config.targets)
    refuse_without_matrix(sites)
    planned = plans(model, config, sites)
    refuse_high_ranks(planned)
    _refuse_unfit_starts(config, planned)
    scales = {"B": config.b_rate_scale} if config.b_rate_scale != 1 else {}
    return Parts(placed=tuple(Placed(p.site, _made(config, p, seed)) for p in planned), rate_scales=scales)


def _made(config: LoraConfig, plan: Plan, seed: int) -> LoraAdapter:
    host, generator = plan.site.host, site_generator(seed, plan.site)
    return KINDS[config.dora, bool(plan.spans)](
        host,
        plan.rank,
        plan.scale,
        config.dropout,
        generator,
        init=config.init,
        spans=plan.spans,
        iterations=config.init_options.iterations,
    )


def refuse_without_matrix(sites: Sequence[Site], *, tables: bool = True, name: str = "LoRA") -> None:
    """Refuse modules that are no matrix.

    Args:
        sites: The targets.
        tables: Whether embeddings will do.
        name: The method, for the message.

    Raises:
        UserError: One is none.
    """
    bare = [s for s in sites if sides(s.host) is None or (isinstance(s.host, nn.Embedding) and not tables)]
    if bare:
        kinds = "linear, Conv1D or embedding" if tables else "linear or Conv1D"
        raise UserError(
            f"`{bare[0].name}` is a {type(bare[0].host).__name__}; {name} needs a {kinds} layer",
            where="adapter.targets",
            fix="leave it out of the targets",
        )


def refuse_high_ranks(planned: Sequence[Plan]) -> None:
    """Refuse ranks above the smaller side of their matrix.

    Raises:
        UserError: It names the worst one.
    """
    small = [(plan, least) for plan in planned if (least := _smaller_side(plan)) < plan.rank]
    if small:
        plan, least = min(small, key=lambda pair: pair[1])
        raise UserError(
            f"rank {plan.rank} is above the smaller side of {len(small)} of {len(planned)} targets; "
            f"`{plan.site.name}` is {' x '.join(map(str, sides(plan.site.host) or ()))}",
            where="adapter.rank",
            fix=f"use a rank of at most {least}, or leave these targets out",
        )


def _smaller_side(plan: Plan) -> int:
    inner, outer = sides(plan.site.host) or (0, 0)
    return min(inner, outer, *(stop - start for start, stop in plan.spans))


def _refuse_unfit_starts(config: LoraConfig, planned: Sequence[Plan]) -> None:
    tables = [p for p in planned if isinstance(p.site.host, nn.Embedding)]
    if tables and config.init not in ANY_HOST:
        raise UserError(
            f"`init: {config.init}` is for linear maps, and `{tables[0].site.name}` is an embedding",
            where="adapter.init",
            fix="leave embeddings out of the targets, or use `init: kaiming`",
        )
    packed = [p for p in planned if not is_plain_matrix(p.site.host)]
    if packed and (config.dora or config.init in RESIDUAL):
        what = "DoRA" if config.dora else f"`init: {config.init}`"
        raise UserError(
            f"{what} reads the base's weights, and those of `{packed[0].site.name}` are packed into few bits",
            where="adapter.dora" if config.dora else "adapter.init",
            fix="use plain LoRA on a k-bit base, or load the base in bfloat16",
        )
    if config.init == LOFTQ and not packed:
        raise UserError(
            f"`init: {LOFTQ}` makes up for what 4 bits lose, and this base keeps its weights whole",
            where="adapter.init",
            fix="set `model.quantization: nf4`, or use `init: pissa`",
        )
    odd = [p for p in planned if p.rank % 2]
    if odd and config.init == "orthogonal":
        raise UserError(
            f"`init: orthogonal` splits the rank in halves, and rank {odd[0].rank} is odd",
            where="adapter.rank",
            fix=f"use rank {odd[0].rank + 1}",
        )
    high = [p for p in planned if 2 * p.rank > _smaller_side(p)]
    if high and config.init == "lora_ga":
        raise UserError(
            f"`init: lora_ga` takes {2 * high[0].rank} directions (twice the rank) of the gradient, and "
            f"`{high[0].site.name}` has {_smaller_side(high[0])}",
            where="adapter.rank",
            fix=f"use a rank of at most {_smaller_side(high[0]) // 2}",
        )
