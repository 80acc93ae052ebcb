"""Region swaps, held to loops that copy pixel by pixel, to what may never happen, and to the odds of every draw."""

import math

import numpy as np
import pytest
import torch

from ravl_core.domains import load_domain
from ravl_core.mitigation.region_swaps import swap_regions
from ravl_core.vlm import boxes_in_image_units

pytestmark = pytest.mark.filterwarnings("error")

HALVES = [[0, 0, 4, 8], [4, 0, 8, 8]]  # of images of 8×8 pixels


def noise(n_images, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n_images, 3, height, width), dtype=np.uint8)


def tensors(images, boxes, image_index, spurious, belief):
    """A batch as `swap_regions` takes it; boxes (R, 4) come in pixels."""
    height, width = images.shape[2:]
    units = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) / [width, height, width, height]
    return (
        torch.from_numpy(images),
        torch.from_numpy(units.astype(np.float32)),
        torch.tensor(image_index, dtype=torch.int64),
        torch.tensor(spurious, dtype=torch.bool),
        torch.tensor(belief, dtype=torch.float32),
    )


def swap(batch, share=1.0, seed=0, feather=0.0):
    """Arrays after the swap; nothing that went in may have changed."""
    before = [value.clone() for value in batch]
    images, spurious = swap_regions(*batch, share, np.random.default_rng(seed), feather)
    assert all(torch.equal(old, new) for old, new in zip(before, batch, strict=True))
    assert images.dtype == torch.uint8 and spurious.dtype == torch.bool
    return images.numpy(), spurious.numpy()


# ---- the rules, one region at a time ----


def shared(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def area(a):
    return (a[2] - a[0]) * (a[3] - a[1])


class Rules:
    """Which region is what, from the words of the docstring."""

    def __init__(self, boxes, image_index, spurious, belief, n_images):
        self.boxes, self.image_index, self.spurious = boxes, image_index, spurious
        self.own = [[r for r in range(len(boxes)) if image_index[r] == i] for i in range(n_images)]
        relevant = [[r for r in own if not spurious[r]] for own in self.own]
        self.core = [max(rs, key=lambda r: (belief[r], -r)) if rs else None for rs in relevant]

    def is_plain(self, r):
        return not self.spurious[r] and self.core[self.image_index[r]] != r

    def gives_plain_pixels(self, r):
        """Plain, and all but clear of spurious regions; and not all core."""
        others = self.own[self.image_index[r]]
        parts = [shared(self.boxes[r], self.boxes[q]) / min(area(self.boxes[r]), area(self.boxes[q])) for q in others]
        clear = all(part <= 0.02 for part, q in zip(parts, others, strict=True) if self.spurious[q])
        in_core = sum(part for part, q in zip(parts, others, strict=True) if q == self.core[self.image_index[r]])
        return self.is_plain(r) and clear and in_core < 1

    def covers(self, i):
        """Regions of other images whose pixels may cover a spurious region of image i."""
        return [r for r in range(len(self.boxes)) if self.image_index[r] != i and self.gives_plain_pixels(r)]

    def targets(self, i):
        """Regions of image i that may be pasted over."""
        if self.core[i] is None or any(self.spurious[r] for r in self.own[i]):
            return []
        core = self.boxes[self.core[i]]
        return [r for r in self.own[i] if r != self.core[i] and shared(self.boxes[r], core) / area(core) <= 0.5]


# ---- pixels ----


def whole_pixel_batch(seed, n_images=7, height=32, width=64):
    """Noise with boxes of 9×6 pixels at whole pixels anywhere, 0 to 4 an image; overlaps abound."""
    random = np.random.default_rng(seed)
    index = np.repeat(np.arange(n_images), random.integers(0, 5, n_images))
    corner = random.integers(0, [width // 3, height // 3], (len(index), 2))
    boxes = np.concatenate([corner, corner + [9, 6]], axis=1)
    spurious = random.random(len(index)) < random.choice([0.1, 0.4])
    return noise(n_images, height, width, seed), boxes, index, spurious, random.integers(0, 5, len(index)) / 8


def copies(image, box):
    x1, y1, x2, y2 = box
    return np.array([[image[:, y, x] for x in range(x1, x2)] for y in range(y1, y2)])  # (h, w, 3)


def check_image(i, before, after, boxes, targets, donors, index):
    """Image i is what it was, but for its targets, each of which is a copy of one of its donors."""
    left = np.ones(before.shape[2:], dtype=bool)  # pixels that no later target hides
    for target in reversed(targets):
        x1, y1, x2, y2 = boxes[target]
        seen = left[y1:y2, x1:x2]
        got = copies(after[i], boxes[target])
        matches = [r for r in donors if (copies(before[index[r]], boxes[r])[seen] == got[seen]).all()]
        assert matches, f"region {target} of image {i} shows none of {donors}"
        left[y1:y2, x1:x2] = False
    assert (after[i][:, left] == before[i][:, left]).all()


@pytest.mark.parametrize("seed", range(40))
def test_whole_pixel_boxes_are_copied_exactly_and_nothing_else_changes(seed):
    images, boxes, index, spurious, belief = whole_pixel_batch(seed)
    after, flags = swap(tensors(images, boxes, index, spurious, belief), seed=seed)
    rules = Rules(boxes, index, spurious, belief, len(images))
    for i, own in enumerate(rules.own):
        changed = [r for r in own if flags[r] != spurious[r]]
        held = [r for r in own if spurious[r]]
        if held:
            donors = rules.covers(i)
            assert changed == (held if donors else [])
        else:
            donors, targets = np.flatnonzero(spurious).tolist(), rules.targets(i)
            assert len(changed) == (1 if donors and targets else 0) and set(changed) <= set(targets)
        check_image(i, images, after, boxes, changed, donors, index)


def test_the_random_batches_hold_every_case():
    n_lost = n_stuck = n_gained = n_kept = 0
    for seed in range(40):
        images, boxes, index, spurious, belief = whole_pixel_batch(seed)
        rules = Rules(boxes, index, spurious, belief, len(images))
        for i, own in enumerate(rules.own):
            held = any(spurious[r] for r in own)
            n_lost += held and bool(rules.covers(i))
            n_stuck += held and not rules.covers(i)
            n_gained += not held and spurious.any() and bool(rules.targets(i))
            n_kept += not held and len(own) > 1 and not rules.targets(i)
    assert min(n_lost, n_gained) > 40 and min(n_stuck, n_kept) > 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_quadrants_of_digits_arrive_bit_for_bit(share):
    labels, present = np.arange(40) % 10, np.arange(40) % 4 == 1
    dataset = load_domain("digits").compose("finetuning", labels, present, 0, "red rectangle")
    images = np.ascontiguousarray(dataset.images.transpose(0, 3, 1, 2))
    units = boxes_in_image_units(dataset.boxes, 56, 56)
    belief = np.where(dataset.shows_core, 0.75, 0.05)
    rest = (dataset.image_index, dataset.shows_feature, belief)
    batch = [torch.from_numpy(a) for a in (images, units, *rest)]
    after, flags = swap(batch, share, feather=0.0)
    red = np.zeros((3, 28, 28), dtype=np.uint8)
    red[0] = 255
    n_changed = 0
    for r, (x1, y1, x2, y2) in enumerate(dataset.boxes.astype(int)):
        i = dataset.image_index[r]
        was, now = images[i, :, y1:y2, x1:x2], after[i, :, y1:y2, x1:x2]
        if flags[r] == dataset.shows_feature[r]:
            assert (now == was).all()
        else:
            assert (now == (red if flags[r] else 0)).all() and not dataset.shows_core[r]
            n_changed += 1
    assert n_changed == round(share * 40)


def bilinear(image, x, y, box):
    """The colour at (x, y) pixels of an image (3, H, W), as if the box were cut out."""
    x = min(max(x, box[0] + 0.5), box[2] - 0.5) - 0.5
    y = min(max(y, box[1] + 0.5), box[3] - 0.5) - 0.5
    colour = np.zeros(3)
    for column in (math.floor(x), math.floor(x) + 1):
        for row in (math.floor(y), math.floor(y) + 1):
            weight = (1 - abs(x - column)) * (1 - abs(y - row))
            if weight > 0:
                nearest = min(max(row, 0), image.shape[1] - 1), min(max(column, 0), image.shape[2] - 1)
                colour += weight * image[:, nearest[0], nearest[1]]
    return colour


def opacity(share, feather):
    """Of a pixel at that share of a box's side."""
    if not 0 < share < 1:
        return 0.0
    ramp = 1.0 if feather == 0 else min(min(share, 1 - share) / feather, 1.0)
    return 3 * ramp**2 - 2 * ramp**3


def carried(under, above, target, donor, feather):
    """The image `under` (3, H, W) with the donor's box of `above` in the target's, before rounding."""
    result = under.astype(np.float64)
    for row in range(under.shape[1]):
        for column in range(under.shape[2]):
            across = (column + 0.5 - target[0]) / (target[2] - target[0])
            down = (row + 0.5 - target[1]) / (target[3] - target[1])
            x, y = donor[0] + across * (donor[2] - donor[0]), donor[1] + down * (donor[3] - donor[1])
            mask = opacity(across, feather) * opacity(down, feather)
            if mask > 0:
                colour = bilinear(above, x, y, donor)
                result[:, row, column] = (1 - mask) * under[:, row, column] + mask * colour
    return result


@pytest.mark.parametrize("feather", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(6))
def test_boxes_of_any_size_are_scaled_like_a_crop(seed, feather):
    """Two images, so that every draw is forced: the spurious region of one and the plain region of the other swap."""
    random = np.random.default_rng(seed)
    images = noise(2, 20, 31, seed)
    corner, side = random.uniform(0, [12, 8], (2, 2)), random.uniform(3, [18, 11], (2, 2))
    spurious_box, plain_box = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    core_box = [30.5, 19.5, 31, 20]
    boxes = [spurious_box, core_box, plain_box]
    after, flags = swap(tensors(images, boxes, [0, 1, 1], [True, False, False], [0.9, 0.8, 0.1]), feather=feather)
    assert flags.tolist() == [False, False, True]
    covered = carried(images[0], images[1], spurious_box, plain_box, 0)
    pasted = carried(images[1], images[0], plain_box, spurious_box, feather)
    for got, exact in zip(after, (covered, pasted), strict=True):
        assert np.abs(got - exact).max() <= 0.5 + 2e-3  # rounding, and float32
        untouched = (exact == exact.round()).all(axis=0)
        assert (got[:, untouched] == exact[:, untouched]).all() and untouched.sum() > 100


def test_two_pixels_become_four():
    images = np.zeros((2, 3, 2, 8), dtype=np.uint8)
    images[1, :, :, 2:4] = [20, 100]
    images[1, :, :, [1, 4]] = 255  # beside the donor
    boxes = [[4, 0, 8, 2], [6, 0, 8, 2], [2, 0, 4, 2]]
    after, flags = swap(tensors(images, boxes, [0, 1, 1], [True, False, False], [0.5, 0.9, 0.1]))
    assert after[0, 0].tolist() == [[0, 0, 0, 0, 20, 40, 80, 100]] * 2
    assert flags.tolist() == [False, False, True]


def test_a_pasted_edge_fades_and_a_covering_one_is_hard():
    images = np.zeros((2, 3, 40, 40), dtype=np.uint8)
    images[0] = 200
    boxes = [[10, 10, 30, 30], [0, 0, 5, 5], [10, 10, 30, 30]]
    batch = tensors(images, boxes, [0, 1, 1], [True, False, False], [0.5, 0.9, 0.1])
    after, _ = swap(batch, feather=0.2)
    ramp = [(2 * k + 1) / 8 for k in range(4)]  # 0.2 of 20 pixels are four
    sides = np.array([0] * 10 + ramp + [1] * 12 + ramp[::-1] + [0] * 10)
    smooth = 3 * sides**2 - 2 * sides**3
    assert (after[1] == (200 * np.outer(smooth, smooth)).round()).all()
    inside = np.outer(sides > 0, sides > 0)
    assert (after[0] == np.where(inside, 0, 200)).all()


def test_donors_give_what_they_showed_in_the_beginning():
    """A chain in which every image is changed: had one been read after its change, its new colour would travel."""
    images = np.stack([np.full((3, 8, 8), colour, dtype=np.uint8) for colour in (10, 20, 30, 40)])
    boxes = [[0, 0, 8, 4], [0, 4, 8, 8]] * 4
    spurious = [True, False, True, False] + [False] * 4
    for seed in range(20):
        belief = [0.1, 0.9, 0.1, 0.9, 0.1, 0.9, 0.1, 0.9]
        after, _ = swap(tensors(images, boxes, np.arange(8) // 2, spurious, belief), seed=seed)
        tops = [np.unique(image[:, :4]).tolist() for image in after]
        assert tops[0] in ([30], [40]) and tops[1] in ([30], [40])
        assert tops[2] in ([10], [20]) and tops[3] in ([10], [20])
        assert all((image[:, 4:] == old[:, 4:]).all() for image, old in zip(after, images, strict=True))


# ---- which images, which regions ----


@pytest.mark.parametrize("share", [0.0, 0.04, 0.25, 0.5, 0.51, 1.0])
def test_the_share_of_images_is_changed(share):
    images = noise(11, 8, 8)
    boxes = [[0, 0, 4, 8], [4, 0, 8, 8]] * 11
    spurious = np.arange(22) % 4 == 0
    batch = tensors(images, boxes, np.arange(22) // 2, spurious, [0.2, 0.8] * 11)
    times = np.zeros(11, dtype=int)
    for seed in range(400):
        after, flags = swap(batch, share, seed)
        changed = (flags != spurious).reshape(11, 2).any(axis=1)
        assert changed.sum() == round(share * 11)
        assert (changed == (after != images).any(axis=(1, 2, 3))).all()
        times += changed
    within(times, 400, np.full(11, round(share * 11) / 11))


def within(counts, n, odds):
    """Counts of n draws lie within four standard deviations of what the odds say."""
    deviation = np.sqrt(n * odds * (1 - odds))
    assert (np.abs(counts - n * odds) <= 4 * deviation).all(), (counts / n, odds)


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_the_odds_of_a_target(scale):
    """A core, and regions beside it, over a quarter of it, within a quarter of it, over most of it."""
    n = 3000
    layout = [[0, 0, 4, 4], [4, 0, 8, 2], [2, 2, 8, 8], [0, 0, 2, 2], [0, 0, 4, 3]]
    belief = scale * np.array([0.5, 0.45, 0.02, 0.02, 0.01])
    boxes, index = layout * n + [[0, 0, 8, 8]], np.append(np.repeat(np.arange(n), 5), n)
    spurious = np.arange(5 * n + 1) == 5 * n
    batch = tensors(noise(n + 1, 8, 8), boxes, index, spurious, np.append(np.tile(belief, n), 0.5))
    _, flags = swap(batch)
    counts = flags[:-1].reshape(n, 5)
    assert (counts.sum(axis=1) == 1).all()
    weights = np.array([0, 0.55, 0.98 * 0.75, 0.98 * 0.75, 0])
    within(counts.sum(axis=0), n, weights / weights.sum())


@pytest.mark.parametrize(("overlap", "is_pasted"), [(16, True), (17, False)])
def test_what_is_pasted_hides_at_most_half_of_the_core(overlap, is_pasted):
    boxes = [[0, 0, 64, 2], [0, 0, 32, 2], [32 - overlap, 0, 64 - overlap, 2]]
    batch = tensors(noise(2, 2, 64), boxes, [0, 1, 1], [True, False, False], [0.5, 0.9, 0.1])
    assert swap(batch)[1][2] == is_pasted


@pytest.mark.parametrize(("overlap", "is_covered"), [(1, True), (2, False)])
def test_what_covers_holds_nothing_spurious(overlap, is_covered):
    """Of 64 pixels of the smaller box, one is shared, or two."""
    boxes = [[0, 0, 64, 1], [0, 0, 64, 1], [0, 2, 128, 4], [64 - overlap, 0, 192 - overlap, 1]]
    batch = tensors(noise(2, 4, 256), boxes, [0, 1, 1, 1], [True, True, False, False], [0.5, 0.5, 0.9, 0.1])
    assert swap(batch)[1].tolist() == [not is_covered, True, False, False]


def test_a_draw_of_zero_gives_no_region_of_weight_zero():
    class Zeros(np.random.Generator):
        def random(self, size=None):
            return np.zeros(size)

    boxes = [*HALVES, *HALVES]  # the first region of image 1 is its core
    batch = tensors(noise(2, 8, 8), boxes, [0, 0, 1, 1], [True, False, False, False], [0.1, 0.9, 0.9, 0.1])
    _, flags = swap_regions(*batch, 1, Zeros(np.random.PCG64(0)))
    assert flags.tolist() == [False, False, False, True]


def test_without_any_belief_targets_are_equally_likely():
    n = 2000
    boxes = [[0, 0, 2, 8], [2, 0, 4, 8], [4, 0, 6, 8], [6, 0, 8, 8]] * n + [[0, 0, 8, 8]]
    index = np.append(np.repeat(np.arange(n), 4), n)
    _, flags = swap(tensors(noise(n + 1, 8, 8), boxes, index, np.arange(4 * n + 1) == 4 * n, np.zeros(4 * n + 1)))
    within(flags[:-1].reshape(n, 4).sum(axis=0), n, np.array([0, 1, 1, 1]) / 3)  # the first is the core on ties


def test_the_odds_of_a_cover():
    """The plain regions of image 0 lie beside its core, half over it, within it, and around it.

    Those of image 1 lie beside a spurious region, or half over it. All other images have one spurious region each.
    """
    n = 1200
    images = np.zeros((n + 2, 3, 8, 8), dtype=np.uint8)
    core, beside, over, part, around = [0, 0, 4, 4], [4, 0, 8, 4], [0, 2, 4, 8], [1, 1, 3, 3], [0, 0, 8, 8]
    bad, clear, touching, other_core = [0, 0, 8, 2], [0, 4, 4, 8], [4, 1, 8, 3], [4, 4, 8, 8]
    images[0, 0, 0:4, 4:8], images[0, 0, 6:8, 0:4], images[1, 0, 4:8, 0:4] = 1, 2, 3
    boxes = [core, beside, over, part, around, bad, clear, touching, other_core] + [[0, 0, 4, 4]] * n
    spurious = [False] * 5 + [True] + [False] * 3 + [True] * n
    belief = [0.9, 0.2, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.3] + [0.5] * n
    index = np.concatenate([[0] * 5, [1] * 4, np.arange(n) + 2])
    after, flags = swap(tensors(images, boxes, index, spurious, belief))
    assert not flags[9:].any()
    shown = after[2:, 0, 3, 0]  # the lower left pixel of what was carried
    weights = np.array([0, 1, 0.5, 1])  # colours 0 … 3; 0 is all that gives no plain pixels
    within(np.bincount(shown, minlength=4), n, weights / weights.sum())


def test_the_odds_of_what_is_pasted():
    """Three spurious regions in two images are equally likely, whatever is believed of them."""
    n = 2000
    images = np.zeros((n + 2, 3, 4, 8), dtype=np.uint8)
    images[0, :, :, :4], images[1, :, :, :4], images[1, :, :, 4:] = 1, 2, 3
    boxes = [[0, 0, 4, 4]] + [[0, 0, 4, 4], [4, 0, 8, 4]] * (n + 1)
    index = np.append([0], np.repeat(np.arange(n + 1) + 1, 2))
    spurious = [True] * 3 + [False] * 2 * n
    after, _ = swap(tensors(images, boxes, index, spurious, [0.9, 0.1, 0.2] + [0.9, 0.1] * n))
    assert (after[2:, :, :, :4] == 0).all()
    within(np.bincount(after[2:, 0, 1, 6], minlength=4), n, np.array([0, 1, 1, 1]) / 3)


def test_two_spurious_regions_of_an_image_are_covered_independently():
    n = 400
    images = np.zeros((n + 1, 3, 4, 8), dtype=np.uint8)
    images[n, :, 0:2, 4:], images[n, :, 2:4, 4:] = 1, 2
    boxes = [[0, 0, 4, 4], [4, 0, 8, 4]] * n + [[0, 0, 4, 4], [4, 0, 8, 2], [4, 2, 8, 4]]
    index = np.append(np.repeat(np.arange(n), 2), [n] * 3)
    after, flags = swap(
        tensors(images, boxes, index, [True] * 2 * n + [False] * 3, [0.5] * 2 * n + [0.9, 0.1, 0.1]), seed=2
    )
    assert not flags[: 2 * n].any()
    pairs = 2 * (after[:n, 0, 1, 1] - 1) + after[:n, 0, 1, 6] - 1
    within(np.bincount(pairs, minlength=4), n, np.full(4, 0.25))


def test_a_spurious_region_is_no_core_however_it_is_believed():
    """The likely core of image 1 is what is left when its spurious region is set aside: it covers nothing."""
    boxes = [[0, 0, 4, 4]] * 2 + [[4, 0, 8, 4], [0, 4, 4, 8]]
    spurious = [True, True, False, False]
    images = np.zeros((2, 3, 8, 8), dtype=np.uint8)
    images[1, :, 0:4, 4:8], images[1, :, 4:8, 0:4] = 100, 200
    for core, colour in ((0, 200), (1, 100)):
        belief = [0.9, 0.9, 0.2 - 0.1 * core, 0.1 + 0.1 * core]
        for seed in range(10):
            after, _ = swap(tensors(images, boxes, [0, 1, 1, 1], spurious, belief), seed=seed)
            assert (after[0, :, :4, :4] == colour).all()


# ---- cases at the edge ----


def unchanged(batch, share=1.0):
    for seed in range(5):
        after, flags = swap(batch, share, seed, feather=0.1)
        if not ((after == batch[0].numpy()).all() and (flags == batch[3].numpy()).all()):
            return False
    return True


@pytest.mark.parametrize(
    ("n_images", "boxes", "index", "spurious", "belief"),
    [
        pytest.param(0, [], [], [], [], id="no image"),
        pytest.param(3, [], [], [], [], id="no region"),
        pytest.param(1, HALVES, [0, 0], [True, False], [0.1, 0.9], id="one image with a spurious region"),
        pytest.param(1, HALVES, [0, 0], [False, False], [0.1, 0.9], id="one image without"),
        pytest.param(2, HALVES * 2, [0, 0, 1, 1], [False] * 4, [0.1, 0.9] * 2, id="nothing is spurious"),
        pytest.param(2, HALVES * 2, [0, 0, 1, 1], [True] * 4, [0.1, 0.9] * 2, id="everything is spurious"),
        pytest.param(3, HALVES, [0, 2], [True, False], [0.1, 0.9], id="a core alone, and an image without regions"),
        pytest.param(2, HALVES[:1] * 3, [0, 1, 1], [True, False, False], [0.1, 0.9, 0.1], id="all of it is core"),
    ],
)
def test_nothing_to_swap(n_images, boxes, index, spurious, belief):
    assert unchanged(tensors(noise(n_images, 8, 8), boxes, index, spurious, belief))


def test_share_0_changes_nothing():
    images, boxes, index, spurious, belief = whole_pixel_batch(0)
    batch = tensors(images, boxes, index, spurious, belief)
    assert unchanged(batch, 0.0) and not unchanged(batch, 1.0)


def test_two_boxes_less_than_a_pixel_wide():
    """Each is in one pixel, of which it gives the colour; the first lies at the image's edge."""
    boxes = [[0, 0, 0.6, 0.6], [4, 4, 8, 8], [5.3, 1.3, 5.9, 1.8]]
    images = np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8)
    images[0, :, 0, 0] = 200
    after, flags = swap(tensors(images, boxes, [0, 1, 1], [True, False, False], [0.1, 0.9, 0.1]))
    assert flags.tolist() == [False, False, True]
    assert np.argwhere((after != images).any(axis=1)).tolist() == [[0, 0, 0], [1, 1, 5]]
    assert (after[1, :, 1, 5] == 200).all()


def test_results_are_copies():
    batch = tensors(noise(2, 8, 8), HALVES * 2, [0, 0, 1, 1], [False] * 4, [0.1, 0.9] * 2)
    images, spurious = swap_regions(*batch, 1, np.random.default_rng(0))
    images += 1
    spurious |= True
    assert not torch.equal(images, batch[0]) and not batch[3].any()


# ---- draws, layouts, types ----


def big_batch(seed=0):
    random = np.random.default_rng(seed)
    index = np.repeat(np.arange(40), random.integers(0, 6, 40))
    corner = random.uniform(0, 40, (len(index), 2))
    boxes = np.concatenate([corner, corner + random.uniform(4, 16, corner.shape)], axis=1)
    return tensors(noise(40, 56, 60), boxes, index, random.random(len(index)) < 0.2, random.random(len(index)))


def test_equal_seeds_give_equal_bytes_and_others_do_not():
    one, again, other = (swap(big_batch(), 0.5, seed, 0.1) for seed in (3, 3, 4))
    assert (one[0] == again[0]).all() and (one[1] == again[1]).all()
    assert (one[0] != other[0]).any() and (one[1] != other[1]).any()


def test_the_global_random_states_play_no_part():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    swap(big_batch(), 0.5)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_memory_layout_and_precision_do_not_matter():
    images, boxes, index, spurious, _ = big_batch()
    belief = (torch.arange(len(boxes)) % 8) / 8.0
    expected = swap((images, boxes, index, spurious, belief), 0.5, 0, 0.1)
    spread = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    wide = torch.stack([boxes, boxes], dim=2)[..., 0]
    variants = [
        (spread, wide, index.int(), spurious, belief.double()),
        (images, boxes.double(), index, spurious, belief.bfloat16()),
        (images, boxes.clone().requires_grad_(), index, spurious, belief.clone().requires_grad_()),
    ]
    for variant in variants:
        with torch.no_grad():
            got = swap(variant, 0.5, 0, 0.1)
        assert (got[0] == expected[0]).all() and (got[1] == expected[1]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_same():
    batch = big_batch()
    expected = swap(batch, 0.5, 0, 0.1)
    images, spurious = swap_regions(*(part.cuda() for part in batch), 0.5, np.random.default_rng(0), 0.1)
    assert images.is_cuda and spurious.is_cuda
    assert (spurious.cpu().numpy() == expected[1]).all()
    assert np.abs(images.cpu().numpy().astype(int) - expected[0]).max() <= 1


GOOD = {
    "images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    "boxes": torch.tensor([[0, 0, 0.5, 1], [0.5, 0, 1, 1]]),
    "image_index": torch.tensor([0, 1]),
    "spurious": torch.tensor([True, False]),
    "core_belief": torch.tensor([0.5, 0.5]),
    "share": 0.5,
    "random": np.random.default_rng(0),
    "feather": 0.1,
}


def test_the_good_arguments_are_good():
    swap_regions(**GOOD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", torch.zeros(2, 3, 8, 8)),
        ("images", torch.zeros(2, 8, 8, 3, dtype=torch.uint8)),
        ("images", torch.zeros(3, 8, 8, dtype=torch.uint8)),
        ("images", np.zeros((2, 3, 8, 8), dtype=np.uint8)),
        ("boxes", torch.zeros(2, 3)),
        ("boxes", torch.tensor([[0, 0, 0.5, 1], [0.5, 0, 1, 1.01]])),
        ("boxes", torch.tensor([[0, 0, 0.5, 1], [0.5, 0, 0.5, 1]])),
        ("boxes", torch.tensor([[0, 0, 0.5, 1], [0.5, 0, math.nan, 1]])),
        ("image_index", torch.tensor([0])),
        ("image_index", torch.tensor([0, 2])),
        ("image_index", torch.tensor([-1, 1])),
        ("image_index", torch.tensor([1, 0])),
        ("image_index", torch.tensor([0.0, 1.0])),
        ("image_index", torch.tensor([False, True])),
        ("spurious", torch.tensor([True])),
        ("spurious", torch.tensor([1, 0])),
        ("spurious", torch.tensor([[True, False]])),
        ("core_belief", torch.tensor([0.5])),
        ("core_belief", torch.tensor([0.5, 1.5])),
        ("core_belief", torch.tensor([-0.1, 0.5])),
        ("core_belief", torch.tensor([math.nan, 0.5])),
        ("core_belief", torch.tensor([0, 1])),
        ("share", 1.1),
        ("share", -0.1),
        ("share", math.nan),
        ("random", 0),
        ("feather", -0.1),
        ("feather", 0.6),
        ("feather", None),
    ],
)
def test_errors_name_what_was_wrong(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected .* got "):
        swap_regions(**{**GOOD, name: value})
