"""LaTeX formulas as SVG, drawn by matplotlib's mathtext: no script, no font to fetch, the same bytes everywhere."""

import re
from html import escape

EM = 100  # units of the drawing
# What mathtext lacks, by what it has: other names, and parentheses that are a little larger.
OTHER_NAMES = {"le": r"\leq", "ge": r"\geq", "big": "", "bigl": "", "bigr": "", "Big": "", "Bigl": "", "Bigr": ""}
LARGE = re.compile(r"\\(?:sum|prod|max|min)_(?:\w|\{(?:[^{}]|\{[^{}]*\})*\})")  # with what stands below it
COMMANDS = {1: "M", 2: "L", 3: "Q", 4: "C"}  # matplotlib's codes of a path, as SVG's


def formula(latex: str, display: bool = False) -> str:
    r"""A formula as `svg` elements of the size and colour of the text around them.

    One that stands alone (`display`) is cut at ``\qquad`` and ``\\``, so that a narrow window shows its parts below
    each other. Raises ValueError, with the formula, for LaTeX that mathtext does not know.
    """
    if not display:
        return _svg(latex)
    plain = re.sub(r"\\(begin|end)\{[a-z]+\*?\}|&", "", latex)
    parts = re.split(r"\\qquad|\\\\", plain.replace(r"\frac", r"\dfrac"))
    return f'<span class="formula">{" ".join(_svg(part) for part in parts if part.strip())}</span>'


def _svg(latex: str) -> str:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    words = " ".join(latex.split())
    known = re.sub(r"\\([A-Za-z]+)", lambda name: OTHER_NAMES.get(name[1], name[0]), words)
    known = LARGE.sub(r"\g<0>\\,", known)  # or what follows touches it
    try:
        path = TextPath((0, 0), f"${known}$", size=EM, prop=FontProperties(math_fontfamily="stix"))
    except ValueError as error:
        raise ValueError(f"formula: expected LaTeX that matplotlib's mathtext knows, got {words!r}") from error
    segments = path.iter_segments(simplify=False)
    drawn = "".join("Z" if code == path.CLOSEPOLY else COMMANDS[code] + _points(values) for values, code in segments)
    left, right = path.vertices[:, 0].min() - 2, path.vertices[:, 0].max() + 2
    low, high = path.vertices[:, 1].min() - 2, path.vertices[:, 1].max() + 2
    size = f'style="width:{(right - left) / EM:.2f}em;height:{(high - low) / EM:.2f}em;vertical-align:{low / EM:.2f}em"'
    box = f'viewBox="{left:.0f} {-high:.0f} {right - left:.0f} {high - low:.0f}"'
    return f'<svg role="img" aria-label="{escape(words)}" {size} {box}><path d="{drawn}"/></svg>'


def _points(values) -> str:
    """x y x y …, with y pointing down."""
    return " ".join(f"{round(-value if i % 2 else value)}" for i, value in enumerate(values))
