"""The figure of where a model looks: what is drawn is what is given, on one scale, and it reads the same in grey."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from skimage.color import rgb2lab
from test_figures import boxes_of_texts, check_style, check_texts

from ravl_core import figures
from ravl_core.figures.looking import EVIDENCE, FADED
from ravl_core.saliency import share_inside

NAMES = ("zero", "one", "two", "three", "four", "five", "six")
SIZES = [(1, 56, 56), (3, 56, 56), (6, 56, 56), (3, 48, 96), (2, 96, 48)]


def problem(n=3, height=56, width=56, cells=4):
    random = np.random.default_rng(n)
    maps = random.dirichlet(np.full(cells * cells, 0.3), (2, n)).reshape(2, n, cells, cells)
    corner = random.uniform(0, 0.4, (n, 2)) * [width, height]
    boxes = np.concatenate([corner, corner + [0.3 * width, 0.5 * height]], axis=1)
    images = random.integers(0, 256, (n, height, width, 3)).astype(np.uint8)
    return images, *maps, boxes, NAMES[:n], ["nine"] * n, NAMES[1 : n + 1]


def panels_of(figure):
    """Axes of the pictures, row by row; the last axes is the scale."""
    return np.reshape(figure.axes[:-1], (-1, 3))


def overlay_of(axes):
    return axes.images[1]


@pytest.fixture(scope="module")
def drawn():
    return {size: figures.before_after_maps(*problem(*size)) for size in SIZES}


def test_maps_are_drawn_as_they_are_given_over_their_images():
    images, before, after, *rest = problem()
    panels = panels_of(figures.before_after_maps(images, before, after, *rest))
    assert panels.shape == (3, 3)
    for row, (image, with_before, with_after) in enumerate(panels):
        np.testing.assert_array_equal(image.images[0].get_array(), images[row])
        for axes, maps in ((with_before, before), (with_after, after)):
            faded, overlay = axes.images
            np.testing.assert_allclose(overlay.get_array(), 100 * maps[row])
            assert overlay.get_extent() == [-0.5, 55.5, 55.5, -0.5] and overlay.get_interpolation() == "nearest"
            assert faded.get_array().min() >= 255 * (1 - FADED) and faded.get_array().max() <= 255
            grey = images[row].mean(axis=-1)
            assert np.corrcoef(grey.ravel(), faded.get_array().ravel())[0, 1] == pytest.approx(1)


def test_before_and_after_share_one_scale_from_zero():
    images, before, after, *rest = problem(4)
    figure = figures.before_after_maps(images, before, after, *rest)
    limits = {overlay_of(axes).get_clim() for axes in panels_of(figure)[:, 1:].flat}
    ((low, high),) = limits
    assert low == 0
    values = 100 * np.concatenate([before, after]).ravel()
    assert 0.9 < (values[values > 0] <= high).mean() < 0.97
    assert figure.axes[-1].get_xlim()[0] == 0 and overlay_of(panels_of(figure)[0, 1]).get_cmap() is EVIDENCE


def test_the_shortcut_is_outlined_in_every_panel():
    arguments = problem()
    for row, panels in enumerate(panels_of(figures.before_after_maps(*arguments))):
        for axes in panels:
            outlines = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
            assert outlines and not any(outline.get_fill() for outline in outlines)
            for outline in outlines:
                np.testing.assert_allclose(outline.get_bbox().extents, arguments[3][row] - 0.5)


def test_captions_say_the_answer_and_the_share_on_the_shortcut():
    images, before, after, boxes, labels, answers, others = problem(cells=8)
    figure = figures.before_after_maps(
        images, before, after, boxes, labels, answers, others, "'nine'", "rectangle", ("standard", "RaVL")
    )
    panels = panels_of(figure)
    assert [axes.get_title() for axes in panels[0]] == ["image", "standard", "RaVL"]
    assert not any(axes.get_title() for axes in panels[1:].flat)
    shares = [share_inside(maps, boxes, np.arange(3), 56, 56) for maps in (before, after)]
    for row, (image, *sides) in enumerate(panels):
        assert image.get_xlabel() == labels[row]
        for axes, named, share in zip(sides, (answers, others), shares, strict=True):
            assert axes.get_xlabel() == f"says {named[row]}\n{share[row]:.0%} on rectangle"
    assert figure.axes[-1].get_xlabel() == "evidence for 'nine' in a cell, %"


def test_equal_cells_and_empty_ones_can_be_drawn():
    images, before, after, *rest = problem(1)
    before[:], after[:] = 1 / 16, 0
    after[0, 1, 2] = 1
    figure = figures.before_after_maps(images, before, after, *rest)
    assert overlay_of(panels_of(figure)[0, 1]).get_clim()[1] > 0
    assert boxes_of_texts(figure)


# ---- looks ----


def test_no_text_leaves_the_canvas_or_covers_another(drawn):
    check_texts(drawn)


def test_it_fits_a_column_and_a_page(drawn):
    check_style(drawn)
    assert all(figure.get_figwidth() == 3.3 and figure.get_figheight() < 10 for figure in drawn.values())
    assert plt.get_fignums() == []


def test_colours_have_one_hue_and_darken_in_equal_steps():
    colours = EVIDENCE(np.arange(256))[:, :3]
    lightness, a, b = rgb2lab(colours).T
    np.testing.assert_allclose(np.diff(lightness), np.diff(lightness).mean(), rtol=0, atol=0.02)
    assert lightness[0] - lightness[-1] > 50
    hue = np.rad2deg(np.arctan2(b, a))[np.hypot(a, b) > 20]
    assert len(hue) > 150 and np.ptp(hue) < 15


def test_more_evidence_is_darker_over_whatever_the_image_holds():
    """Clear colours over a faded image: a darker one for more, over black and over white, in grey too."""
    for beneath in (1 - FADED, 1.0):
        colours = EVIDENCE(np.arange(256))
        seen = colours[:, 3:] * colours[:, :3] + (1 - colours[:, 3:]) * beneath
        assert (np.diff(rgb2lab(seen)[:, 0]) < 0.02).all()
        assert colours[0, 3] == 0


# ---- what is refused ----


@pytest.mark.parametrize("n", [0, 7])
def test_more_than_a_column_holds_is_refused(n):
    arguments = [part[:n] for part in (*problem(6)[:4], NAMES, NAMES, NAMES)]
    arguments[0] = np.zeros((n, 56, 56, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=f"images: expected 1 to 6, got {n}"):
        figures.before_after_maps(*arguments)


@pytest.mark.parametrize("at, name", list(enumerate(["maps_before", "maps_after", "boxes", "labels"], start=1)))
def test_lengths_that_disagree_are_named(at, name):
    arguments = list(problem())
    arguments[at] = arguments[at][:2]
    with pytest.raises(ValueError, match=f"{name}: expected length 3, as images, got length 2"):
        figures.before_after_maps(*arguments)


def test_a_box_outside_its_image_is_refused():
    arguments = list(problem())
    arguments[3] = arguments[3] + [0, 0, 56, 0]
    with pytest.raises(ValueError, match="boxes: expected boxes within"):
        figures.before_after_maps(*arguments)
