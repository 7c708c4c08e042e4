"""Errors that a person can act on: what is wrong, where, and how to mend it."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text with control characters as escapes: what a file holds must not steer the terminal that shows it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


class BurnishError(Exception):
    """A fault with its place and its fix; the command line prints it without a traceback.

    Args:
        what: The fault in one sentence.
        where: The file, recipe key, row or tensor that it concerns.
        fix: What to change so that it goes away.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = printable(what), printable(where), printable(fix)
        super().__init__(self.__str__())

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"  where: {self.where}")
        if self.fix:
            parts.append(f"  fix:   {self.fix}")
        return "\n".join(parts)


class UserError(BurnishError):
    """Input that Burnish refuses: a recipe, a file, a model, a setting. Exit code 2."""

    exit_code = 2


class TrainingStopped(BurnishError):
    """A running job that was stopped to protect the result: a non-finite loss, for example. Exit code 3."""

    exit_code = 3


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
