"""Choosing sites by the number of their layer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from burnish.core.errors import UserError
from burnish.models.anatomy import Site

LayerTarget = int | str


def in_layers(sites: Sequence[Site], targets: LayerTarget | Sequence[LayerTarget]) -> list[Site]:
    """Those of ``sites`` whose layers the targets name, in their order.

    Args:
        sites: Sites to choose from.
        targets: `all`, a number (negative ones count from the end), a range `4-7` with both ends, or `re:PATTERN`
            searched for in full names; one or several, which are joined.

    Raises:
        UserError: A target is none of these, or matches nothing.
    """
    given = list(targets) if isinstance(targets, Sequence) and not isinstance(targets, str) else [targets]
    if not given:
        raise UserError("`targets` is empty, so nothing would be trained", where="adapter.targets", fix="`targets=all`")
    last = max((site.layer for site in sites if site.layer is not None), default=-1)
    chosen: set[str] = set()
    for target in given:
        hit = [site.name for site in sites if _matches(site, target, last)]
        if not hit:
            raise UserError(
                f"`{target}` matches no layer of this model",
                where="adapter.targets",
                fix=f"its layers are 0 to {last}; give `all`, a number, a range such as `0-{last}`, or `re:PATTERN`",
            )
        chosen.update(hit)
    return [site for site in sites if site.name in chosen]


def _matches(site: Site, target: LayerTarget, last: int) -> bool:
    text = str(target)
    if text == "all":
        return True
    if text.startswith("re:"):
        try:
            return re.search(text.removeprefix("re:"), site.name) is not None
        except re.error as error:
            raise UserError(
                f"`{target}` is not a pattern: {error}", where="adapter.targets", fix="mend the expression after `re:`"
            ) from None
    if re.fullmatch(r"-?\d+", text):
        number = int(text)
        return site.layer == (number if number >= 0 else last + 1 + number)
    span = re.fullmatch(r"(\d+)-(\d+)", text)
    return span is not None and site.layer is not None and int(span[1]) <= site.layer <= int(span[2])
