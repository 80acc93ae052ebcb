"""The figure of region swaps shows what it is given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from tiny import noise

from ravl_core import figures


def test_each_image_stands_above_what_became_of_it():
    before, after = noise(3, seed=1), noise(3, seed=2)
    figure = figures.swapped_pairs(before, after, ["zero", "one", "two"], ["loses it", "gets one", "gets one"])
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    np.testing.assert_array_equal(np.stack(shown), np.concatenate([before, after]))
    assert [axes.get_title() for axes in figure.axes[:3]] == ["loses it", "gets one", "gets one"]
    assert [axes.get_xlabel() for axes in figure.axes[3:]] == ["zero", "one", "two"]
    assert [figure.axes[0].get_ylabel(), figure.axes[3].get_ylabel()] == ["before", "after"]
    plt.close(figure)


def test_nothing_to_show_and_lists_of_other_lengths_are_refused():
    images = noise(2)
    with pytest.raises(ValueError, match="before: expected at least one image"):
        figures.swapped_pairs(images[:0], images[:0], [], [])
    with pytest.raises(ValueError, match="titles"):
        figures.swapped_pairs(images, images, ["a", "b"], ["a"])
