"""English words that decide about a label, and words that carry no meaning alone; augmentation leaves them as they are.

The lists are short and meant for guarding, not for measuring: a word that is missing here may still be held back by its
part of speech, its likeness or the likeness of the sentences.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATIONS = _words(
    """no not nor none nobody nothing nowhere never neither without cannot cant wont dont doesnt didnt isnt arent wasnt
    werent hasnt havent hadnt wouldnt shouldnt couldnt aint hardly barely scarcely rarely seldom lack lacks lacking
    except unless instead but however although though despite yet against"""
)

FUNCTION = _words(
    """a an the this that these those i me my mine you your yours he him his she her hers it its we us our ours they
    them their theirs who whom whose which what when where why how and or so if as at by for from in into of off on
    onto out over to up down with about after before between during through under again then than there here be am is
    are was were been being do does did done have has had having will would shall should can could may might must just
    also too very more most much many some any each every both few other such own same all only rt mt via amp http im
    ive youre theyre hes shes thats lets gonna wanna gotta u ur r n w"""
)

FEELING = _words(
    """good great best better nice love loved lovely like liked awesome amazing excellent fantastic wonderful
    perfect brilliant happy glad pleased thank thanks thankful grateful win winner winning won fun funny cool beautiful
    enjoy enjoyed exciting excited impressive impressed favorite favourite yay wow superb outstanding incredible
    delightful helpful kind friendly easy smooth comfortable recommend recommended fine fair hope hopeful hopefully
    proud safe success successful super sweet worth worthy well smart genius cute congrats congratulations bless blessed
    bad worse worst hate hated awful terrible horrible poor sad angry annoy annoyed annoying upset disappointed
    disappointing disappointment fail failed failure fails sucks suck sucked stupid dumb ridiculous pathetic useless
    worthless rude slow late delay delayed delays cancel cancelled canceled lost lose loser losing broke broken wrong
    problem problems issue issues trouble ugly nasty dirty gross disgusting boring bored scary scared afraid fear fraud
    cheat cheated cheating cheater lie lied liar lying unfair unacceptable shame shameful embarrassing embarrassed
    frustrating frustrated nightmare disaster mess crap shit fuck fucking damn hell ass idiot idiots worry worried hurt
    pain painful sick kill killed die dead death crash crashed danger dangerous hard difficult ignore ignored sorry
    apologize apologise apology complain complaint refuse refused stuck waiting tired unhappy miserable hostile violent
    threat threatening attack attacked guilty blame sue joke weak cruel evil wtf lol lmao smh ugh meh please
    appreciate appreciated     unfortunately"""
)
"""Words of feeling and judgement."""

_STEM = re.compile(r"(?:ing|edly|ed|er|est|ly|es|s|ful|less|ness)$")
_STEMS = frozenset(word for word in FEELING if len(word) > 3)
_OPPOSITE = re.compile(r"^(?:un|in|im|ir|dis|non|mis)[a-z]{4,}")


def is_negation(word: str) -> bool:
    """Whether a word turns what is said around, or sets something against it."""
    plain = word.casefold().replace("’", "'")
    return plain.endswith("n't") or plain.replace("'", "") in NEGATIONS


def is_feeling(word: str) -> bool:
    """Whether a word says how somebody feels about something; forms of one do, and so do opposites made by a prefix."""
    plain = word.casefold()
    stem = _STEM.sub("", plain)
    return plain in FEELING or stem in _STEMS or f"{stem}e" in _STEMS or bool(_OPPOSITE.match(plain))


def is_function(word: str) -> bool:
    """Whether a word holds a sentence together rather than saying something."""
    return word.casefold().replace("’", "'").replace("'", "") in FUNCTION


def decides(word: str) -> bool:
    """Whether a label may hang on a word."""
    return is_negation(word) or is_feeling(word)
