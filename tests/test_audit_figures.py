"""The figures of an audit's finding show its own numbers."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from made_up_audit import made_up_audit, with_first_finding
from test_figures import check_style, check_texts, errorbars

from ravl_core.figures.auditing import accuracy_with_without, gallery, mask_effects


@pytest.fixture(scope="module")
def audit():
    return made_up_audit()


@pytest.fixture(scope="module")
def drawn(audit):
    first = audit.findings[0]
    return {"gallery": gallery(audit, first), "accuracy": accuracy_with_without(first), "masks": mask_effects(first)}


def test_type_and_widths_are_those_of_all_figures(drawn):
    check_style(drawn)


def test_no_text_leaves_the_canvas_or_covers_another(drawn):
    check_texts(drawn)


def test_the_gallery_shows_each_image_once_the_most_typical_first(audit):
    first = audit.findings[0]
    owners = list(dict.fromkeys(audit.dataset.image_index[first.regions].tolist()))
    assert len(owners) < len(first.regions)
    shown = [axes.images[0].get_array() for axes in gallery(audit, first, n=7).axes if axes.get_visible()]
    np.testing.assert_array_equal(np.stack(shown), audit.dataset.images[owners[:7]])


def test_the_gallery_says_what_each_image_was_taken_for(audit, drawn):
    first = audit.findings[0]
    image = audit.dataset.image_index[first.regions[0]]
    names, label = audit.dataset.class_names, audit.dataset.labels[image]
    prediction = audit.evaluation.predictions[image]
    axes = drawn["gallery"].axes[0]
    assert axes.get_title(loc="left") == f"1. {names[label]}"
    assert axes.get_xlabel() == ("right" if prediction == label else f"taken for {names[prediction]}")


def test_accuracies_stand_by_difference_with_the_intervals_of_the_table(audit, drawn):
    finding = audit.findings[0]
    table = finding.table.sort_values("difference", ascending=False)
    axes = drawn["accuracy"].axes[0]
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels] == list(table["class"])
    assert [label.get_text() for label in labels if label.get_fontweight() == "bold"] == [finding.attribute_name]
    for bars, side in zip(errorbars(drawn["accuracy"]), ("in", "out"), strict=True):
        np.testing.assert_allclose(bars.lines[0].get_xdata(), 100 * table[f"accuracy_{side}"])
        ends = np.array([segment[:, 0] for segment in bars.lines[2][0].get_segments() if len(segment)])
        known = table[table[f"accuracy_{side}"].notna()]
        np.testing.assert_allclose(ends[:, 0], 100 * known[f"accuracy_{side}_low"])
        np.testing.assert_allclose(ends[:, 1], 100 * known[f"accuracy_{side}_high"])


def test_with_and_without_differ_in_more_than_colour(drawn):
    for name in ("accuracy", "masks"):
        filled, hollow = (bars.lines[0] for bars in errorbars(drawn[name]))
        assert filled.get_markerfacecolor() == filled.get_color() and hollow.get_markerfacecolor() == "white"


def test_masks_show_other_classes_then_the_class_itself(audit, drawn):
    masks = audit.findings[0].masks
    groups = [getattr(mask, whose) for whose in ("others", "own") for mask in masks.values()]
    hidden, beyond = (bars.lines[0].get_xdata() for bars in errorbars(drawn["masks"]))
    np.testing.assert_allclose(hidden, [100 * group.effect.probability.estimate for group in groups])
    np.testing.assert_allclose(beyond, [100 * group.beyond_control.probability.estimate for group in groups])
    axes = drawn["masks"].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*masks, *masks]
    assert axes.yaxis_inverted()
    texts = [text.get_text() for text in axes.texts]
    assert [text for text in texts if "|" in text] == [f"{group.n} | {group.n_compared}" for group in groups]


def test_effects_of_no_mask_are_refused(audit):
    with pytest.raises(ValueError, match="finding: expected the effects of at least one mask"):
        mask_effects(with_first_finding(audit, masks={}).findings[0])
