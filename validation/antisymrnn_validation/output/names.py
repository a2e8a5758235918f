"""Names as people type them: what counts as the same name, and what a wrong one may have meant."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping

CLOSE = 0.75
"""Least similarity of two spellings, as difflib measures it; "mnsit" and "mnist" have 0.8, "lr" and "full" 0.33."""

BESIDE_THE_BEST = 0.1
"""By how much another name may be less similar than the best."""


def folded(name: str) -> str:
    """A name in ASCII and lower case; blanks, hyphens, underscores, dots, commas, quotes, brackets do not count.

    A Greek letter is its English name, an accent is dropped, and ᵀ, ``.T``, ``^T`` and the word "transpose" are all t.
    """
    plain = "".join(map(_ascii, unicodedata.normalize("NFKD", name).casefold()))
    return re.sub(r"[^a-z0-9=+/<>]", "", re.sub(r"\btranspose\b", "t", plain))


def _ascii(letter: str) -> str:
    if unicodedata.combining(letter):
        return ""
    found = re.fullmatch(r"GREEK SMALL LETTER ([A-Z]+)", unicodedata.name(letter, ""))
    return found[1].lower() if found else letter


def within(text: str, name: str) -> bool:
    """Whether a text is part of a name, in upper or lower case; blanks, hyphens and underscores are equal."""
    alike, whole = (re.sub(r"[-_ ]", " ", each.casefold()) for each in (text, name))
    return alike in whole


def near(asked: str, known: Iterable[str], *, synonyms: Mapping[str, str] | None = None, most: int = 1) -> list[str]:
    """The names that somebody may have meant, the likeliest first; none if nothing is close.

    Parameters
    ----------
    asked : str
    known : iterable of str
    synonyms : mapping of str to str
        Other words for some of the known names.
    most : int
        Largest number of names.

    Returns
    -------
    list of str
        The name that is equal after :func:`folded`, or that the word is a synonym of; else those of a close spelling,
        then, of a word of three letters or more, those that contain it, or if there are none, those with a word like
        it. If only one is wanted, several that contain the word are no answer. Names whose numbers differ are
        different things, however close their spelling: float16 is not a misspelt float64.
    """
    by_fold = {folded(name): name for name in known}
    mine = folded(asked)
    meant = {folded(word): folded(name) for word, name in (synonyms or {}).items()}.get(mine, mine)
    if meant in by_fold:
        return [by_fold[meant]][:most]
    alike = {name: _likeness(mine, fold) for fold, name in by_fold.items()}
    least = max([CLOSE, *(value - BESIDE_THE_BEST for value in alike.values())])
    close = sorted((name for name, value in alike.items() if value >= least), key=lambda name: -alike[name])
    containing = [name for fold, name in by_fold.items() if len(mine) > 2 and mine in fold and name not in close]
    found = close + containing or [
        name
        for name in by_fold.values()
        if len(mine) > 2 and any(_likeness(mine, folded(word)) >= CLOSE for word in re.split(r"[\s_-]+", name))
    ]
    return found[:most] if most > 1 or close or len(found) == 1 else []


def did_you_mean(asked: str, known: Iterable[str], *, synonyms: Mapping[str, str] | None = None, most: int = 1) -> str:
    """The end of an error message, ``; did you mean 'mnist'?``, or nothing; the arguments are those of :func:`near`."""
    found = [repr(name) for name in near(asked, known, synonyms=synonyms, most=most)]
    return f"; did you mean {' or '.join(filter(None, [', '.join(found[:-1]), found[-1]]))}?" if found else ""


def _likeness(one: str, other: str) -> float:
    """From 0 to 1, of folded names; 0 if their numbers differ."""
    if re.findall(r"\d+", one) != re.findall(r"\d+", other):
        return 0.0
    if any(one == f"{other[:k]}{other[k + 1]}{other[k]}{other[k + 2 :]}" for k in range(len(other) - 1)):
        return 1.0  # two neighbours exchanged
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()
