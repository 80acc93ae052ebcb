"""Stage 1 on what are no images: documents and their paragraphs.

The documents are docstrings of libraries that this project depends on anyway, their classes the libraries. A phrase is
planted in them as a red rectangle is in digits, a linear model learns it, and stage 1 is given paragraphs for regions.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.discovery import Discovery, discover
from ravl_core.metrics import group_accuracies, precision_at_k
from ravl_core.progress import track
from ravl_core.randomness import stream
from ravl_core.settings import balanced_table, learned_margin, plant_correlation
from ravl_core.slicing.ravl import in_three_ways
from ravl_core.zero_shot import Evaluation

if TYPE_CHECKING:
    import pandas

LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy", "sklearn", "torch")
MOST_DOCUMENTS = 400  # of a library
NO_PROSE = (">>>", "---", "===", "::", " : ")  # in a paragraph: code, a table or a list of parameters
MOST_PARAGRAPHS, FEWEST_WORDS = 5, 6
PLANTED = "Bananas and oranges are ripe in orchard {}, says the gardener."  # words that no docstring has
N_TRAINING, N_VAL = 600, 600
DIMENSIONS = 64


@dataclass(frozen=True, eq=False)
class Documents:
    """Paragraphs, stored document by document.

    Attributes
    ----------
    paragraphs : tuple of str, M of them
    document_index : int array (M,), non-decreasing; the document of each paragraph, 0 … N-1
    labels : int array (N,); the library of each document, 0 … C-1
    shows_feature : bool array (M,); which paragraphs were planted
    feature_present : bool array (N,); which documents hold one
    """

    paragraphs: tuple[str, ...]
    document_index: np.ndarray
    labels: np.ndarray
    shows_feature: np.ndarray
    feature_present: np.ndarray


@dataclass(frozen=True, eq=False)
class DocumentTrial:
    """A model that was trained on planted documents, what it says of others, and what stage 1 finds in that."""

    val: Documents
    evaluation: Evaluation
    found: Discovery
    margin: float  # how far the phrase was learned, in points
    first: dict[str, float]  # Precision@10 of each recipe's first finding; NaN where it finds nothing


@cache
def docstrings(library: str) -> tuple[tuple[str, ...], ...]:
    """The prose paragraphs of each docstring of a library, in the order of its files; two paragraphs or more each.

    Raises ModuleNotFoundError where the library is not installed.
    """
    found = find_spec(library)
    if found is None:
        raise ModuleNotFoundError(f"library: {library} is not installed")
    folder = Path(found.origin).parent
    files = (path for path in sorted(folder.rglob("*.py")) if "test" not in path.relative_to(folder).as_posix())
    documents = {}  # each once, in order
    for path in files:
        documents |= dict.fromkeys(_documents(path))
        if len(documents) >= MOST_DOCUMENTS:
            break
    return tuple(documents)[:MOST_DOCUMENTS]


def _documents(path: Path) -> Iterator[tuple[str, ...]]:
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        paragraphs = [" ".join(part.split()) for part in (text or "").split("\n\n")]
        prose = [part for part in paragraphs if len(part.split()) >= FEWEST_WORDS and not _holds(part, NO_PROSE)]
        if len(prose) >= 2:
            yield tuple(prose[:MOST_PARAGRAPHS])


def _holds(text: str, parts: Sequence[str]) -> bool:
    return any(part in text for part in parts)


def plant_phrase(
    documents: Sequence[tuple[str, ...]], labels: np.ndarray, present: np.ndarray, random: np.random.Generator
) -> Documents:
    """Documents with a paragraph more where `present` (N,) says so: the phrase, with a number of its own, anywhere."""
    paragraphs, index, shows = [], [], []
    for at, (document, planted) in enumerate(zip(documents, present, strict=True)):
        parts = [(text, False) for text in document]
        if planted:
            parts.insert(int(random.integers(len(parts) + 1)), (PLANTED.format(random.integers(2, 90)), True))
        paragraphs += [text for text, _ in parts]
        shows += [shown for _, shown in parts]
        index += [at] * len(parts)
    return Documents(tuple(paragraphs), np.array(index), labels, np.array(shows), np.asarray(present, dtype=bool))


def planted_sets(attribute: int, strength: float, seed: int = 0) -> tuple[Documents, Documents]:
    """A training set in which the phrase goes with a class, by Cramér's V, and a val set in which it goes with none.

    Raises ValueError where a library has too few docstrings.
    """
    random, n_classes = stream(seed, "documents"), len(LIBRARIES)
    tables = plant_correlation(N_TRAINING, n_classes, attribute, strength, random), balanced_table(N_VAL, n_classes)
    pools = _shuffled(int(sum(table.sum(axis=1) for table in tables).max()), random)
    sets, first = [], np.zeros(n_classes, dtype=int)
    for table in tables:
        sizes = table.sum(axis=1)
        texts = [text for pool, at, size in zip(pools, first, sizes, strict=True) for text in pool[at : at + size]]
        labels, present = (np.repeat(side.ravel(), table.ravel()) for side in np.indices(table.shape))
        sets.append(plant_phrase(texts, labels, present, random))
        first += sizes
    return sets[0], sets[1]


def _shuffled(needed: int, random: np.random.Generator) -> list[list[tuple[str, ...]]]:
    """The docstrings of each library in random order."""
    pools = []
    for library in LIBRARIES:
        known = docstrings(library)
        if len(known) < needed:
            raise ValueError(f"documents: expected {needed} docstrings of each library, {library} has {len(known)}")
        pools.append([known[at] for at in random.permutation(len(known))])
    return pools


def evaluate_documents(training: Documents, val: Documents, seed: int = 0) -> Evaluation:
    """A linear model of word frequencies, trained on whole documents, and what it says of others and their paragraphs.

    Embeddings are those of latent semantic analysis (Deerwester et al. 1990), by scikit-learn; a document's is that
    of all its words. There are no boxes: a paragraph's is (0, 0, 1, 1).
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    embed = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, stop_words="english"), TruncatedSVD(DIMENSIONS, random_state=seed),
        Normalizer(),
    ).fit(training.paragraphs)  # fmt: skip
    model = LogisticRegression(max_iter=1000).fit(_with_direction(embed.transform(_whole(training))), training.labels)
    documents, paragraphs = (_with_direction(embed.transform(texts)) for texts in (_whole(val), val.paragraphs))
    return Evaluation(
        image_embeddings=documents,
        region_embeddings=paragraphs,
        image_index=val.document_index,
        boxes=np.tile(np.float32([0, 0, 1, 1]), (len(paragraphs), 1)),
        labels=val.labels,
        class_names=LIBRARIES,
        image_probs=model.predict_proba(documents),
        region_probs=model.predict_proba(paragraphs),
    )


def _with_direction(embeddings: np.ndarray) -> np.ndarray:
    """One dimension more, (T, D + 1): texts without a known word, whose embedding is 0, point along it."""
    empty = np.linalg.norm(embeddings, axis=1) < 0.5
    return np.column_stack([embeddings, empty])


def _whole(documents: Documents) -> list[str]:
    starts = np.searchsorted(documents.document_index, np.arange(1, len(documents.labels)))
    return [" ".join(part) for part in np.split(np.array(documents.paragraphs, dtype=object), starts)]


def document_trials(n_each: int, strengths: Sequence[float] = (0.95, 0.0), first_seed: int = 100) -> pandas.DataFrame:
    """So many trials of each class and strength as a table, each with a seed of its own.

    Columns strength, attribute, seed, margin, n_findings, and Precision@10 of each recipe's first finding (NaN: none).
    """
    import pandas

    cells = itertools.product(strengths, range(len(LIBRARIES)), range(n_each))
    asked = [
        {"attribute": attribute, "strength": strength, "seed": seed}
        for seed, (strength, attribute, _) in enumerate(cells, first_seed)
    ]
    rows = []
    for one in track(asked, "documents"):
        trial = document_trial(**one)
        rows.append(one | {"margin": trial.margin, "n_findings": len(trial.found.findings)} | trial.first)
    return pandas.DataFrame(rows)


def document_trial(attribute: int = 0, strength: float = 0.95, seed: int = 0) -> DocumentTrial:
    """Plant the phrase, train, look at other documents, and let stage 1 and two recipes of ours find it.

    `strength` is Cramér's V in the training set; 0 plants nothing that could be learned.
    """
    training, val = planted_sets(attribute, strength, seed)
    seen = evaluate_documents(training, val, seed)
    found = discover(seen, seed=seed)
    groups = group_accuracies(seen.predictions == val.labels, val.labels, val.feature_present, len(LIBRARIES))
    ranked = in_three_ways(seen, found.clustering, seed)
    first = {
        name: precision_at_k(one.regions, val.shows_feature, 10) if len(one) else np.nan for name, one in ranked.items()
    }
    return DocumentTrial(val, seen, found, learned_margin(groups, attribute), first)
