"""What can be said of a text in words: its length, its words, its language, whether it negates."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
NEGATIONS = _set(
    "no not never none nobody nothing neither nor nowhere without cannot cant dont doesnt didnt isnt arent wasnt "
    "werent wont wouldnt shouldnt couldnt aint havent hasnt hadnt hardly barely "  # English, apostrophes dropped
    "nicht kein keine keinen keinem keiner nie niemals nichts niemand ohne "  # German
    "pas jamais rien aucun aucune personne sans nunca jamás nada nadie ningún ninguna sin non mai niente "
    "nessuno não nem nunca"
)
"""Words that negate, in the languages that ``language`` knows."""
_CONTRACTED = re.compile(r"n['’]t\b", re.IGNORECASE)
STOP_WORDS: Mapping[str, frozenset[str]] = {
    "English": _set("the and is of to in that it you for was with this have are not but my be so what"),
    "German": _set("der die das und ist nicht ich ein eine zu den mit es auf sich dem von wir sie auch"),
    "French": _set("le la les et est des une un que je pas pour dans qui ce il elle du vous nous"),
    "Spanish": _set("el la los las y es que de un una no por con para se lo como más pero mi"),
    "Italian": _set("il lo la gli che di è un una non per con sono mi si ma come questo della"),
    "Portuguese": _set("o os as e é que de um uma não por com para se do da em mais mas você"),
    "Dutch": _set("de het een en is van ik je niet dat die in te op met voor zijn maar ook"),
}
_SCRIPTS = ("CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "THAI", "HANGUL", "HIRAGANA", "KATAKANA", "CJK")
_SCRIPT_NAMES = {
    "CYRILLIC": "Cyrillic script",
    "GREEK": "Greek",
    "ARABIC": "Arabic script",
    "HEBREW": "Hebrew",
    "DEVANAGARI": "Devanagari script",
    "THAI": "Thai",
    "HANGUL": "Korean",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "CJK": "Chinese characters",
}
SEEN_ENOUGH = 3
"""A word is rare that fewer training rows than this have."""
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]|[:;=][-']?[)(DPpO/|]")


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [w.lower() for w in WORD.findall(text)]


def negates(text: str) -> bool:
    """Whether a word of the text negates; it may still be the wrong one to look at."""
    return bool(_CONTRACTED.search(text)) or any(w.replace("'", "").replace("’", "") in NEGATIONS for w in words(text))


def language(text: str) -> str:
    """A guess: by the script of most letters, and of Latin ones by the most stop words of seven languages.

    A text with fewer than two stop words of its best language, or two languages alike, is "unclear".
    """
    letters = [c for c in text[:2000] if c.isalpha()]
    if not letters:
        return "no letters"
    scripts = Counter(_script(c) for c in letters)
    script, count = scripts.most_common(1)[0]
    if script != "LATIN" and count * 2 > len(letters):
        return _SCRIPT_NAMES.get(script, "another script")
    found = Counter(words(text))
    scores = {name: sum(found[w] for w in known) for name, known in STOP_WORDS.items()}
    (first, most), (_, second) = sorted(scores.items(), key=lambda item: -item[1])[:2]
    return first if most >= 2 and most > second else "unclear"


def _script(character: str) -> str:
    if character.isascii():
        return "LATIN"
    name = unicodedata.name(character, "")
    return next((s for s in _SCRIPTS if name.startswith(s)), "LATIN" if name.startswith("LATIN") else "OTHER")


class Vocabulary:
    """How many training rows have each word.

    Args:
        texts: The training texts, seen once and not kept.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.rows: Counter[str] = Counter()
        for text in texts:
            self.rows.update(set(words(text)))

    def rare(self, text: str) -> list[str]:
        """Words of a text that fewer than ``SEEN_ENOUGH`` training rows have."""
        return [w for w in dict.fromkeys(words(text)) if self.rows[w] < SEEN_ENOUGH]

    def rareness(self, text: str) -> str:
        """The share of rare words, in words."""
        all_words = set(words(text))
        if not all_words:
            return "no words"
        share = len(self.rare(text)) / len(all_words)
        return "no rare word" if not share else "under a third rare words" if share < 1 / 3 else "a third or more rare"


def quartiles(lengths: Sequence[int], unit: str = "tokens") -> list[str]:
    """Each length by the quarter that it lies in, named by the quarter's ends."""
    values = np.asarray(lengths)
    if not len(values):
        return []
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower"))
    place = np.searchsorted(edges, values, side="left")
    names = []
    for part in range(len(edges) + 1):
        inside = values[place == part]
        names.append(f"{inside.min()}–{inside.max()} {unit}" if len(inside) else "")
    return [names[p] for p in place]


def _yes(test: Callable[[str], bool], yes: str, no: str) -> Callable[[str], str]:
    return lambda text: yes if test(text) else no


FORMS: Mapping[str, Callable[[str], str]] = {
    "negation": _yes(negates, "negates", "does not negate"),
    "language": language,
    "question": _yes(lambda t: "?" in t, "has a question mark", "has no question mark"),
    "exclamation": _yes(lambda t: "!" in t, "has an exclamation mark", "has no exclamation mark"),
    "link": _yes(lambda t: "http://" in t or "https://" in t or "www." in t, "has a link", "has no link"),
    "mention": _yes(lambda t: bool(re.search(r"(?:^|\s)@\w", t)), "mentions somebody (@)", "mentions nobody"),
    "hashtag": _yes(lambda t: bool(re.search(r"(?:^|\s)#\w", t)), "has a hashtag", "has no hashtag"),
    "digits": _yes(lambda t: any(c.isdigit() for c in t), "has digits", "has no digits"),
    "emoticon": _yes(lambda t: bool(_EMOJI.search(t)), "has an emoji or emoticon", "has no emoji or emoticon"),
    "capitals": _yes(
        lambda t: sum(len(w) > 2 and w.isupper() for w in WORD.findall(t)) >= 2, "shouts in capitals", "does not shout"
    ),
}
"""Traits that a text has by itself, each a name to a function from the text to its value in words."""
