"""Documents: what is planted is where it is said to be, and stage 1 finds it among paragraphs."""

from dataclasses import replace

import numpy as np
import pytest

from ravl_core import documents as module
from ravl_core.discovery import discover
from ravl_core.documents import (
    LIBRARIES,
    NO_PROSE,
    PLANTED,
    docstrings,
    document_trial,
    document_trials,
    evaluate_documents,
    plant_phrase,
    planted_sets,
)
from ravl_core.settings import table_strength

START = PLANTED.split("{")[0]


@pytest.fixture(scope="module")
def sets():
    return planted_sets(attribute=2, strength=0.9, seed=3)


@pytest.fixture(scope="module")
def trial():
    return document_trial(attribute=2, strength=0.95, seed=3)


@pytest.mark.parametrize("library", LIBRARIES)
def test_docstrings_are_prose_each_once(library):
    texts = docstrings(library)
    assert len(texts) == len(set(texts)) >= 200  # what one class needs
    for paragraphs in texts:
        assert 2 <= len(paragraphs) <= module.MOST_PARAGRAPHS
        for paragraph in paragraphs:
            assert len(paragraph.split()) >= module.FEWEST_WORDS and "\n" not in paragraph
            assert not any(mark in paragraph for mark in NO_PROSE) and START not in paragraph


def test_a_library_that_is_not_there_is_named():
    with pytest.raises(ModuleNotFoundError, match="no_such_library is not installed"):
        docstrings("no_such_library")


def test_a_library_with_too_few_docstrings_is_named(monkeypatch):
    monkeypatch.setattr(module, "docstrings", lambda library: (("a b", "c d"),) * 5)
    with pytest.raises(ValueError, match="expected 200 docstrings of each library, matplotlib has 5"):
        planted_sets(0, 0.9)


def test_the_phrase_is_a_paragraph_of_its_own_anywhere_among_the_others():
    texts = [("one", "two"), ("three", "four", "five"), ("six", "seven")] * 20
    present = np.arange(60) % 2 == 0
    made = plant_phrase(texts, np.zeros(60, dtype=int), present, np.random.default_rng(0))
    places = set()
    for at, text in enumerate(texts):
        own = [p for p, document in zip(made.paragraphs, made.document_index, strict=True) if document == at]
        planted = [p for p in own if p.startswith(START)]
        assert len(planted) == present[at] and tuple(p for p in own if p not in planted) == text
        places |= {own.index(p) for p in planted}
    assert places == {0, 1, 2, 3}
    assert [p.startswith(START) for p in made.paragraphs] == made.shows_feature.tolist()


def test_training_holds_the_correlation_and_val_none(sets):
    for one, strength in zip(sets, (0.9, 0.0), strict=True):
        table = [[np.sum((one.labels == c) & (one.feature_present == side)) for side in (0, 1)] for c in range(6)]
        assert table_strength(np.array(table)) == pytest.approx(strength, abs=0.01)
        assert len(one.labels) == 600 and (np.diff(one.document_index) >= 0).all()


def test_no_document_is_in_both_sets(sets):
    def whole(one):
        parts = {}
        for text, document, planted in zip(one.paragraphs, one.document_index, one.shows_feature, strict=True):
            parts.setdefault(int(document), []).extend([] if planted else [text])
        return {(one.labels[document], tuple(texts)) for document, texts in parts.items()}

    training, val = (whole(one) for one in sets)
    assert len(training) == len(val) == 600 and not training & val


def test_an_evaluation_is_one_that_stage_1_takes(sets):
    seen = evaluate_documents(*sets)
    assert len(seen.region_embeddings) == len(sets[1].paragraphs) and len(seen.image_embeddings) == 600
    for embeddings in (seen.image_embeddings, seen.region_embeddings):
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    for probs in (seen.image_probs, seen.region_probs):
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    assert seen.accuracy > 2 / 6


def test_a_text_without_a_known_word_is_like_no_paragraph_with_words(sets):
    training, val = sets
    odd = replace(val, paragraphs=("qwzx qwzy", "qqqq", *val.paragraphs[2:]))
    seen = evaluate_documents(training, odd)
    alone = seen.region_embeddings @ seen.region_embeddings[0]
    assert alone[:2] == pytest.approx(1)
    assert np.abs(alone[2:][val.shows_feature[2:]]).max() < 1e-9
    np.testing.assert_allclose(np.minimum(np.abs(alone), np.abs(1 - alone)), 0, atol=1e-9)  # the same, or nothing alike


def test_the_phrase_is_learned_and_found(trial):
    assert trial.margin > 10
    assert trial.first == {"paper": 1.0, "pull": 1.0, "controlled": 1.0}
    shown = trial.val.shows_feature[trial.found.findings[0].regions[:10]]
    assert shown.all() and trial.found.findings[0].attribute == 2
    seen = trial.evaluation
    arrays = seen.region_embeddings, seen.image_index, seen.labels, seen.image_probs, seen.region_probs
    again = discover(*arrays, seed=3)
    assert [one.cluster for one in again.findings] == [one.cluster for one in trial.found.findings]


def test_where_nothing_goes_with_a_class_nothing_is_learned():
    assert document_trial(attribute=2, strength=0.0, seed=3).margin < 10


def test_trials_are_a_table_each_with_a_seed_of_its_own(trial):
    table = document_trials(1, strengths=(0.95,), first_seed=1)
    assert table.seed.tolist() == list(range(1, 7)) and table.attribute.tolist() == list(range(6))
    row = table.iloc[2]  # attribute 2, seed 3
    assert (row.margin, row.paper, row.n_findings) == (trial.margin, 1.0, len(trial.found.findings))
