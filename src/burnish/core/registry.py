"""Dispatch by table: a named collection that explains an unknown name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from burnish.core.errors import UserError
from burnish.core.names import suggestion

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from a name to a value.

    Args:
        what: What the table holds, for error messages: ``"adapter method"``.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._items: dict[str, T] = {}
        self._families: dict[str, Callable[[str], T]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a value under ``name``; a name that is taken is a programming error."""

        def add(value: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.what} {name!r} is registered twice")
            self._items[name] = value
            return value

        return add

    def family(self, prefix: str) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
        """Decorator for a function that makes the value of any name that begins with ``prefix``.

        Names of a family are looked up and not listed: which there are, its function knows.
        """

        def add(make: Callable[[str], T]) -> Callable[[str], T]:
            self._families[prefix] = make
            return make

        return add

    def __getitem__(self, name: str) -> T:
        for prefix, make in self._families.items():
            if name.startswith(prefix):
                return make(name)
        if name not in self._items:
            raise UserError(f"unknown {self.what} `{name}`", fix=suggestion(name, self._items))
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
