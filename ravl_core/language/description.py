"""What a teacher says about one image: keywords for the object and, apart from them, for the background."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

SEPARATORS = re.compile(r"[,.;\n]")
NO_WORDS = re.compile(r"""^([\s\-*•"']|and\b)+|[\s\-*•"']+$""")  # before and after a keyword


@dataclass(frozen=True)
class Description:
    """Keywords for the object and for the background of one image.

    Both are given as one text or as several, and are kept as `keywords` reads them. Raises ValueError where one of
    them holds no keyword, TypeError where it is no text.
    """

    objects: tuple[str, ...]
    background: tuple[str, ...]
    raw: tuple[str, ...] = field(default=(), compare=False, repr=False)  # a language model's answers, word for word

    def __post_init__(self):
        for name in ("objects", "background"):
            object.__setattr__(self, name, _cleaned(name, getattr(self, name)))

    def texts(self) -> tuple[str, str]:
        """The object's keywords and the background's, each joined by commas, as a text tower takes them."""
        return ", ".join(self.objects), ", ".join(self.background)


def keywords(text: str) -> tuple[str, ...]:
    """The keywords of an answer such as "Seagull, pointed beak, and webbed feet.", in its order, each once.

    They stand between commas, semicolons, full stops and ends of lines. All are lower-cased, because CLIP's tokenizer
    does not tell case apart; bullets, quotation marks, the numbers of a list and a leading "and" are dropped.
    """
    parts = (NO_WORDS.sub("", part) for part in SEPARATORS.split(text.lower()))
    return tuple(dict.fromkeys(part for part in parts if part and not part.isdecimal()))


def _cleaned(name: str, texts: str | Sequence[str]) -> tuple[str, ...]:
    texts = (texts,) if isinstance(texts, str) else tuple(texts)
    if strange := [text for text in texts if not isinstance(text, str)]:
        raise TypeError(f"{name}: expected texts, got {strange[0]!r}")
    found = keywords("\n".join(texts))
    if not found:
        raise ValueError(f"{name}: expected at least one keyword, got {texts!r}")
    return found
