"""Which tokens of a row stay when it is too long."""

from __future__ import annotations

from collections.abc import Sequence


def cut_row(trained: Sequence[bool], *, prompt: int, head: int, limit: int, left: bool) -> list[int]:
    """Places of the tokens that stay.

    ``left`` cuts the prompt from its left, behind the first ``head`` tokens (BOS), and leaves the target whole if it
    fits. If it does not, the prompt keeps up to a quarter of the room and the target is cut at its end. Without
    ``left`` (plain text, conversations with several targets) the end of the row is cut, so that what stays begins as
    the row begins; but if no target were left then, the prompt is cut from its left after all.

    Args:
        trained: Which tokens carry loss.
        prompt: Where the last target begins.
        head: Tokens at the very beginning that always stay.
        limit: How many tokens fit.
        left: Where to cut first.
    """
    length = len(trained)
    if length <= limit:
        return list(range(length))
    if not left and any(trained[:limit]):
        return list(range(limit))
    head = min(head, prompt, limit - 1)
    target = length - prompt
    room = limit - head
    # something has to stand before the target's first token, or that cannot be predicted
    fits = target <= room - (head == 0)
    before = min(prompt - head, room - target if fits else max(limit // 4, 1), room - 1)
    first = list(range(head)) + list(range(prompt - before, prompt))
    return first + list(range(prompt, prompt + min(target, limit - len(first))))


def cut_pair(given: list[int], target: list[int], *, suffix: int, limit: int) -> tuple[list[int], list[int]]:
    """An encoder-decoder's input and target cut at their ends; the input keeps its last ``suffix`` tokens (EOS).

    A target that is cut loses its EOS: the model must not learn to stop in the middle.
    """
    if len(given) > limit:
        suffix = min(suffix, limit)
        given = given[: limit - suffix] + given[len(given) - suffix :]
    return given, target[:limit]
