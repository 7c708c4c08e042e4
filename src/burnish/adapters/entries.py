"""The entries of a set: what they are called, and which cannot be together."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.adapters.base import MethodConfig, Parts
from burnish.core.errors import UserError


def keys_of(configs: Sequence[MethodConfig]) -> tuple[str, ...]:
    """What the entries of a set are called: by their names, else their methods, `lora`, `lora_2` and so on.

    Raises:
        UserError: Two entries have the same name.
    """
    keys: list[str] = []
    for config in configs:
        name, count = config.name or config.method, 1
        while (key := name if count == 1 else f"{name}_{count}") in keys:
            if config.name:
                raise UserError(f"two entries are called `{name}`", where="adapter", fix="give each a name of its own")
            count += 1
        keys.append(key)
    return tuple(keys)


def refuse_entries(configs: Sequence[MethodConfig], parts: Sequence[Parts]) -> None:
    """Refuse entries that cannot be in one set.

    Raises:
        UserError: Two adapters of one method want the same site, or tasks are given for what all rows use.
    """
    seen: dict[tuple[int, str], list[MethodConfig]] = {}
    for config, part in zip(configs, parts, strict=True):
        _refuse_tasks(config, part)
        for item in part.placed:
            others = seen.setdefault((id(item.site.host), config.method), [])
            if any(not _apart(config, other) for other in others):
                raise UserError(
                    f"two `{config.method}` adapters would sit at `{item.site.name}`",
                    where="adapter",
                    fix="part their targets, or give them different `tasks`",
                )
            others.append(config)


def _apart(one: MethodConfig, other: MethodConfig) -> bool:
    """Whether two entries of one method at one place are meant: one is for all rows, or no task has both."""
    return bool(one.tasks or other.tasks) and not set(one.tasks) & set(other.tasks)


def _refuse_tasks(config: MethodConfig, parts: Parts) -> None:
    """Refuse tasks for what cannot be switched by row.

    Raises:
        UserError: The entry trains weights of the base, which every row uses.
    """
    if config.tasks and parts.base:
        raise UserError(
            f"`{config.method}` trains the base's own weights, which the rows of every task use",
            where="adapter.tasks",
            fix="leave `tasks` out, or use a method that adds parameters",
        )
