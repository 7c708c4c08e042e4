"""Numbers as people read them; whatever is no finite number becomes a dash."""

from __future__ import annotations

from typing import Any

DASH = "–"
NBSP = "\u00a0"
THIN = "\u202f"  # a narrow space that does not break
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def number(value: Any) -> float | None:
    """A finite number, or None for everything else: null, NaN, infinity, text, truth values."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if as_float == as_float and abs(as_float) != float("inf") else None


def count(value: Any) -> str:
    """``1200`` as ``1,200``."""
    known = number(value)
    return DASH if known is None else f"{known:,.0f}"


def rows(value: Any) -> str:
    """``1,200 rows``, ``1 row``."""
    return plural(value, "row")


def plural(value: Any, noun: str) -> str:
    """A count with its noun."""
    return f"{count(value)} {noun}" + ("" if number(value) == 1 else "s")


def decimal(value: Any, digits: int = 3) -> str:
    """A fixed number of decimals, with a real minus sign."""
    known = number(value)
    if known is None:
        return DASH
    if known and (abs(known) >= 1e6 or abs(known) < 0.5 * 10**-digits):
        return f"{known:.3g}".replace("-", "−")
    return _signless(f"{known:,.{digits}f}").replace("-", "−")


def signed(value: Any, digits: int = 3) -> str:
    """A difference, with its sign."""
    known = number(value)
    if known is None:
        return DASH
    text = decimal(known, digits)
    return text if text.startswith("−") or known == 0 else f"+{text}"


def general(value: Any) -> str:
    """Up to four significant digits: learning rates, ticks, settings."""
    known = number(value)
    return DASH if known is None else f"{known:.4g}".replace("-", "−")


def share(value: Any, digits: int = 1) -> str:
    """``0.0363`` as ``3.6 %``; a share that would round to nothing keeps two significant digits."""
    known = number(value)
    if known is None:
        return DASH
    percent = known * 100
    if percent and abs(percent) < 0.5 * 10**-digits:
        return f"{percent:.2g}{THIN}%".replace("-", "−")
    return f"{percent:.{digits}f}{THIN}%".replace("-", "−")


def short(value: Any) -> str:
    """``134515008`` as ``134.5 M``."""
    known = number(value)
    if known is None:
        return DASH
    for size, unit in _UNITS:
        if abs(known) >= size:
            return f"{known / size:.1f}{THIN}{unit}"
    return f"{known:,.0f}"


def size(value: Any) -> str:
    """Bytes in binary units."""
    known = number(value)
    if known is None or known < 0:
        return DASH
    step = 0
    while known >= 1024 and step < len(_SIZES) - 1:
        known, step = known / 1024, step + 1
    return f"{known:.{1 if step else 0}f}{THIN}{_SIZES[step]}"


def duration(value: Any) -> str:
    """Seconds in the two units that matter."""
    known = number(value)
    if known is None or known < 0:
        return DASH
    if known < 59.95:
        return f"{known:.1f}{THIN}s"
    whole = round(known)
    hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}{THIN}h {minutes:02d}{THIN}min" if hours else f"{minutes}{THIN}min {seconds:02d}{THIN}s"


def p_value(value: Any) -> str:
    """A p-value; below 0.001 only that it is."""
    known = number(value)
    if known is None:
        return DASH
    return f"<{NBSP}0.001" if known < 0.001 else f"{known:.3f}"


def p_equation(value: Any) -> str:
    """``p < 0.001`` or ``p = 0.032``."""
    text = p_value(value)
    return f"p{NBSP}{text}" if text.startswith("<") else f"p{NBSP}={NBSP}{text}"


def ranges(values: list[int]) -> str:
    """Whole numbers as ranges: ``[0, 1, 2, 5]`` as ``0–2, 5``."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in parts)


def _signless(text: str) -> str:
    """``-0.000`` is zero."""
    return text[1:] if text.startswith("-") and not text.strip("-0.,") else text
