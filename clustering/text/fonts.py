"""Characters in; the fonts of this machine that draw them out."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

USUAL = "DejaVu Sans"  # comes with matplotlib
LIKELY = ("cjk", "noto sans", "notosans", "wqy", "wenquanyi", "droid", "pingfang", "hiragino", "unifont")


def fonts_for(text: str) -> tuple[list[str], frozenset[str]]:
    """Families that draw a text, as matplotlib takes them, and the characters that none of them has.

    Fonts are opened only for what the usual one lacks, those first whose file's name says that they know many scripts.
    """
    from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager

    families = [USUAL]
    missing = {sign for sign in text if not sign.isspace() and unicodedata.category(sign) not in ("Cc", "Cf")}
    missing -= _has(findfont(FontProperties(family=USUAL)), missing)
    for path in sorted(findSystemFonts(), key=_rank) if missing else []:
        found = _has(path, missing)
        if found:
            fontManager.addfont(path)
            families.append(fontManager.ttflist[-1].name)
            missing -= found
        if not missing:
            break
    return families, frozenset(missing)


def _rank(path: str) -> tuple[bool, bool, str]:
    name = Path(path).name.lower()
    return not any(word in name for word in LIKELY), "regular" not in name, name


def _has(path: str, wanted: set[str]) -> set[str]:
    """Those of the characters that a font file has glyphs for; none of a font that matplotlib cannot draw with."""
    from matplotlib.ft2font import FT2Font

    if "color" in Path(path).name.lower():  # pictures of one size, which are not drawn
        return set()
    try:
        font: Any = FT2Font(path)
        return {sign for sign in wanted if font.get_char_index(ord(sign))}
    except (OSError, RuntimeError, ValueError):
        return set()
