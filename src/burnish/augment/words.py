"""A text as words with what is between them; which of them may be changed, and what may take their place."""

from __future__ import annotations

import re
from dataclasses import dataclass

from burnish.augment.lexicon import decides, is_function

_WORD = re.compile(r"\S+")
_CORE = re.compile(r"^([^\w@#]*)(.*?)([^\w]*)$", re.DOTALL)
_PLAIN = re.compile(r"^[^\W\d_]+(?:['’][^\W\d_]+)*$")

_SUFFIXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("adverb", ("ly",)),
    ("participle", ("ing",)),
    ("past", ("ed",)),
    ("noun", ("tion", "tions", "sion", "ment", "ments", "ness", "ity", "ities", "ship", "ism", "ist", "ists", "ance",
              "ence", "hood", "ology")),
    ("adjective", ("ful", "ous", "able", "ible", "ive", "ish", "less", "ical", "ic", "est")),
    ("plural", ("ies", "es", "s")),
)  # fmt: skip


@dataclass
class Words:
    """A text, word by word.

    Attributes:
        words: What stands between spaces, punctuation included.
        before: The spaces before each word.
        end: The spaces behind the last one.
    """

    words: list[str]
    before: list[str]
    end: str

    @classmethod
    def of(cls, text: str) -> Words:
        """Take a text apart; ``str`` puts the same one together again."""
        words, before, last = [], [], 0
        for match in _WORD.finditer(text):
            before.append(text[last : match.start()])
            words.append(match.group())
            last = match.end()
        return cls(words, before, text[last:])

    def __len__(self) -> int:
        return len(self.words)

    def __str__(self) -> str:
        return "".join(space + word for space, word in zip(self.before, self.words, strict=True)) + self.end

    def core(self, place: int) -> str:
        """A word without the punctuation around it."""
        match = _CORE.match(self.words[place])
        return match[2] if match else self.words[place]

    def put(self, place: int, word: str) -> str:
        """Replace the core of a word, in its case; returns what stands there now."""
        match = _CORE.match(self.words[place])
        assert match is not None  # the pattern takes anything
        word = in_case_of(match[2], word)
        self.words[place] = match[1] + word + match[3]
        return word

    def insert(self, place: int, word: str) -> None:
        """Put a word before the one at ``place``, or behind the last one."""
        at_start = place == 0
        self.words.insert(place, word)
        self.before.insert(place, self.before[0] if at_start and self.before else " ")
        if at_start and len(self) > 1:
            self.before[1] = " "

    def remove(self, place: int) -> None:
        """Leave a word out, with the space before it."""
        space = self.before.pop(place)
        self.words.pop(place)
        if place == 0 and self.before:
            self.before[0] = space

    def plain(self) -> list[int]:
        """Places of words made of letters alone, on which no label hangs: no names after @ or #, links or numbers."""
        return [i for i in range(len(self)) if _PLAIN.match(self.core(i)) and not decides(self.core(i))]

    def telling(self) -> list[int]:
        """Places of those among them that say something by themselves, and so can have a synonym."""
        return [i for i in self.plain() if len(self.core(i)) > 2 and not is_function(self.core(i))]


def in_case_of(old: str, new: str) -> str:
    """A word written as the one that it replaces: in capitals, with a capital first, or as it is."""
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


def part_of_speech(word: str) -> str:
    """A coarse part of speech, by the ending; `base` where none tells."""
    plain = word.casefold()
    for name, endings in _SUFFIXES:
        if any(plain.endswith(ending) and len(plain) > len(ending) + 2 for ending in endings):
            return name
    return "base"


def may_replace(old: str, new: str) -> bool:
    """Whether one word may take the place of another: another word, of the same coarse part of speech, no form of it.

    No label may hang on the new word, and it has to say something by itself.
    """
    a, b = old.casefold(), new.casefold()
    if a == b or not _PLAIN.match(b) or len(b) < 3 or decides(b) or is_function(b):
        return False
    return part_of_speech(a) == part_of_speech(b) and not _same_stem(a, b)


def chosen_count(total: int, rate: float) -> int:
    """How many of so many words a share means: one at least."""
    return min(total, max(1, round(rate * total)))


def _same_stem(a: str, b: str) -> bool:
    common = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        common += 1
    return common >= max(4, min(len(a), len(b)) - 1)
