"""The rank that training really used: the effective rank of the change of every matrix of a finished run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from burnish.adapters.attach import sets_of
from burnish.adapters.drift import Drift, adapter_drift, weight_drift
from burnish.adapters.lora_layers import LowRank
from burnish.core.errors import UserError
from burnish.models.anatomy import sites
from burnish.models.load import load
from burnish.train.config import RunConfig
from burnish.train.folder import open_run
from burnish.train.handover import load_handed_over, read_recipe
from burnish.train.tasks import task_of


@dataclass(frozen=True)
class Used:
    """One matrix.

    Attributes:
        name: Its module.
        role: Its part.
        layer: Number of its layer.
        given: Rank that its update could have; None where all of the matrix was trained.
        used: Effective rank of its change; None where nothing changed.
        relative: ``||change|| / ||weight||``.
    """

    name: str
    role: str
    layer: int | None
    given: int | None
    used: float | None
    relative: float

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def used_ranks(path: Path) -> list[Used]:
    """The effective rank of the change of each matrix that a run trained, in the order of the model.

    Args:
        path: The run.

    Raises:
        UserError: There is no finished run, or what it trained changes no matrix.
    """
    config = read_recipe(open_run(path))
    loaded = load_handed_over(path, dtype=torch.float32, device=torch.device("cpu"))
    attached = sets_of(loaded.model)
    given = {
        item.site.name: len(item.adapter.factors()[0])
        for one in attached
        for item in one.placed
        if isinstance(item.adapter, LowRank)
    }
    drifts = [drift for one in attached for drift in adapter_drift(one)]
    if not attached:
        drifts = _of_weights(config, loaded.model)
    roles = {site.name: str(site.role) for site in sites(loaded.model)}
    found = [_used(one, roles, given) for one in drifts if one.name in roles]
    if not found:
        names = ", ".join(f"`{one.method}`" for one in config.adapters)
        raise UserError(
            f"what {names} trained changes no matrix of the model, so there is no rank to measure",
            where=str(path),
            fix="ask of a run of `lora`, of another method that can be merged, or of `full`",
        )
    return found


def _of_weights(config: RunConfig, tuned: PreTrainedModel) -> list[Drift]:
    """Of a run that trained the model itself: its weights beside the original's."""
    original = load(config.model, torch.float32, verify=False, headless=task_of(config).headless).model
    layers = {f"{site.name}.weight": site.layer for site in sites(tuned)}
    after = {name: p for name, p in tuned.named_parameters() if name in layers}
    found = weight_drift(dict(original.named_parameters()), after, layers)
    return [Drift(one.name.removesuffix(".weight"), one.layer, one.change, one.weight, one.rank) for one in found]


def _used(one: Drift, roles: dict[str, str], given: dict[str, int]) -> Used:
    relative = (one.change / one.weight) ** 0.5 if one.weight > 0 else 0.0
    return Used(one.name, roles[one.name], one.layer, given.get(one.name), one.rank, relative)
