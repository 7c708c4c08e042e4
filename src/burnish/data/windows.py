"""Long texts in stretches that overlap. Every token belongs to exactly one of them, and is seen by its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from burnish.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of tokens.

    Attributes:
        begin: Its first token.
        end: One behind its last.
        own: The first of the tokens that belong to it and to no other.
        own_end: One behind the last of these.
    """

    begin: int
    end: int
    own: int
    own_end: int


def windows(count: int, room: int, stride: int) -> list[Window]:
    """Cut ``count`` tokens into windows of at most ``room`` that overlap by ``stride``.

    The border between the own tokens of two neighbours lies in the middle of what they share, so that each is read
    with at least half of the stride on either side.

    Args:
        count: Tokens of the text.
        room: Most tokens of a window.
        stride: Tokens that neighbours share; less than ``room``.
    """
    if count <= room:
        return [Window(0, count, 0, count)]
    begins = list(range(0, count - stride, room - stride))
    borders = [0, *(begin + stride // 2 for begin in begins[1:]), count]
    return [Window(b, min(b + room, count), borders[i], borders[i + 1]) for i, b in enumerate(begins)]


def settle_stride(stride: int | None, room: int, max_length: int) -> int:
    """The tokens that windows share: those asked for, or a quarter of a window.

    Raises:
        UserError: They do not fit.
    """
    chosen = room // 4 if stride is None else stride
    if room < 1 or chosen >= room:
        raise UserError(
            f"windows that share {chosen} tokens do not fit into rows of {max_length}, of which {max(0, room)} are "
            "left for the text",
            where="task.stride",
            fix="lower `task.stride`, or raise `data.render.max_length`",
        )
    return chosen
