"""Counterfactual region swaps: batches in which spurious features come and go, while labels and cores stay.

Of the images of a batch that are drawn, one that holds spurious regions loses them: plain pixels of other images cover
them. One that holds none gets the pixels of a spurious region of another image. What is plain, spurious and likely
core comes from stage 1 and from the initial model, so nothing else has to be known. Our own addition to the paper.
"""

import numpy as np
import torch
from torch.nn import functional as F

from ravl_core import checks

MOST_MIXED = 0.02  # of the smaller box: what a plain donor may share with a spurious region without showing it
MOST_HIDDEN = 0.5  # of the likely core's box by what is pasted; rather than hide more, an image stays as it is
HARD = 1e-6  # of a box's side: an edge that fades over so little is a hard one


def swap_regions(
    images: torch.Tensor,
    boxes: torch.Tensor,
    image_index: torch.Tensor,
    spurious: torch.Tensor,
    core_belief: torch.Tensor,
    share: float,
    random: np.random.Generator,
    feather: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of B images with R regions, some of its images changed; what is passed in stays as it is.

    The likely core of an image is its region with the highest belief, spurious regions aside. A region that is
    neither spurious nor likely core is plain. A drawn image with spurious regions has each of them covered by a plain
    region of another image, one that overlaps no spurious region and preferably not the likely core either. A drawn
    image without gets a spurious region of another image, pasted over a plain region of its own that is unlikely to
    be the core and hides little of it.

    Where there is nothing to paste, or nothing to paste it over, an image stays as it is: a flat patch in place of a
    spurious region would be one more shortcut.

    Parameters
    ----------
    images : (B, 3, H, W) uint8.
    boxes : (R, 4) x1, y1, x2, y2 in units of the image, 0 … 1. A pixel is in a box if its centre is.
    image_index : (R,) the image of each region, in 0 … B-1, non-decreasing.
    spurious : (R,) bool, whether stage 1 calls the region spurious.
    core_belief : (R,) in 0 … 1, how likely the region is the core of its image: its probability of the image's label
        under the initial model.
    share : of the images that are drawn, 0 … 1; `round(share * B)` images, without replacement.
    random : source of every draw.
    feather : part of a box's side, 0 … 0.5, over which pasted spurious pixels fade out towards its border; 0 is a hard
        edge. What covers a spurious region always has one, because a fading edge leaves a frame of what was there.

    Returns
    -------
    The images, and `spurious` (R,) as it is afterwards: False where a region was covered, True where one was pasted.
    Regions that overlap these keep what they had.

    Raises
    ------
    ValueError
        Tensors of another type or shape, an index or box out of range, a share or feather out of range.
    """
    feather = checks.number("feather", feather, 0, 0.5)
    arrays = _checked(images, boxes, image_index, spurious, core_belief, random)
    n_drawn = round(checks.number("share", share, 0, 1) * len(images))
    drawn = np.zeros(len(images), dtype=bool)
    drawn[random.permutation(len(images))[:n_drawn]] = True
    targets, donors = _plan(*arrays, drawn, random)
    changed = torch.from_numpy(targets).to(spurious.device)
    swapped = spurious.index_put((changed,), ~spurious[changed])
    fade = np.where(arrays[2][targets], HARD, max(feather, HARD))
    return _carry(images, boxes.detach(), arrays[1], targets, donors, fade), swapped


def _plan(boxes, image_index, spurious, belief, drawn, random):
    """Regions that get other pixels, (S,) stored image by image, and the regions that give them, (S,)."""
    if not spurious.any():
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    table = _table(image_index, len(drawn))
    core = _likely_cores(table, spurious, belief)
    lost, covers = _removals(boxes, image_index, spurious, table, core, drawn, random)
    without = np.flatnonzero(drawn & (np.bincount(image_index, spurious, minlength=len(drawn)) == 0))
    gained = _draw(_target_weights(boxes, belief, table[without], core[without]), random)
    gained = table[without, gained][gained >= 0]
    pasted = random.choice(np.flatnonzero(spurious), len(gained))
    return np.concatenate([lost, gained]), np.concatenate([covers, pasted])


def _table(image_index, n_images):
    """The regions of each image, (B, P) with P the most that any image has; -1 fills the rows up."""
    counts = np.bincount(image_index, minlength=n_images)
    places = np.arange(counts.max())
    return np.where(places < counts[:, None], (np.cumsum(counts) - counts)[:, None] + places, -1)


def _likely_cores(table, spurious, belief):
    """The likely core of each image, (B,) the first on ties; -1 without a region that is not spurious."""
    belief = np.where((table >= 0) & ~spurious[table], belief[table], -1)  # (B, P)
    return np.where(belief.max(axis=1) >= 0, table[np.arange(len(table)), belief.argmax(axis=1)], -1)


def _removals(boxes, image_index, spurious, table, core, drawn, random):
    """Spurious regions of drawn images, and for each a plain region of another image; none where there is none."""
    targets = np.flatnonzero(spurious & drawn[image_index])
    elsewhere = image_index != image_index[targets][:, None]  # (S, R)
    donors = _draw(elsewhere * _donor_weights(boxes, image_index, spurious, table, core), random)
    return targets[donors >= 0], donors[donors >= 0]


def _donor_weights(boxes, image_index, spurious, table, core):
    """How good each region's pixels are as plain ones, (R,) in 0 … 1; 0 for what is not plain.

    What it shares with another region counts as a part of the smaller box, so that a large region around a core is no
    good either.
    """
    others = table[image_index]  # (R, P)
    smaller = np.minimum(_area(boxes)[:, None], _area(boxes)[others])
    shared = np.where(others >= 0, _shared_area(boxes[:, None], boxes[others]) / smaller, 0)
    is_core = others == core[image_index][:, None]
    with_spurious, with_core = ((shared * kind).max(axis=1) for kind in (spurious[others], is_core))  # (R,)
    # A region shares all of itself with itself, which rules cores and spurious regions out.
    return (with_spurious <= MOST_MIXED) * (1 - with_core).clip(min=0)


def _target_weights(boxes, belief, table, core):
    """How well each region of some images (G, P), with those cores (G,), may be pasted over: (G, P), 0 for the core."""
    belief = np.where(table >= 0, belief[table], 0)
    total = belief.sum(axis=1, keepdims=True)
    belief = np.divide(belief, total, out=np.zeros_like(belief), where=total > 0)
    cores = boxes[core][:, None]  # (G, 1, 4)
    hidden = _shared_area(boxes[table], cores) / _area(cores)
    allowed = (table >= 0) & (hidden <= MOST_HIDDEN)  # which rules the core itself out
    return allowed * (1 - belief) * (1 - hidden)


def _shared_area(boxes, others):
    """What pairs of boxes (..., 4) have in common, (...)."""
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    return sides.clip(min=0).prod(axis=-1)


def _area(boxes):
    return (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)


def _draw(weights, random):
    """In each row of weights (S, P) a column with probability in proportion to its weight: (S,), -1 if all are 0."""
    steps = weights.cumsum(axis=1)
    drawn = random.random(len(weights)) * steps[:, -1]
    return np.where(steps[:, -1] > 0, (steps <= drawn[:, None]).sum(axis=1), -1)


def _carry(images, boxes, image_index, targets, donors, fade):
    """The images with each target region's pixels replaced by its donor's, as those were in the beginning.

    Edges fade over `fade` (S,) of the target's side. Targets of one image are done in turn, because they may overlap;
    a round does one of every image.
    """
    result = images.clone()
    place = {"device": images.device, "dtype": torch.float32}
    boxes, fade = boxes.to(**place), torch.from_numpy(fade).to(**place)[:, None]
    _, first, image = np.unique(image_index[targets], return_index=True, return_inverse=True)
    turn = np.arange(len(targets)) - first[image]
    for now in range(turn.max(initial=-1) + 1):
        chosen = np.flatnonzero(turn == now)
        into, source = targets[chosen], donors[chosen]
        own, other = image_index[into], image_index[source]
        result[own] = _blend(result[own], images[other], boxes[into], boxes[source], fade[chosen])
    return result


def _blend(images, others, targets, donors, fade):
    """Images (S, 3, H, W) with the donor boxes (S, 4) of others scaled into the target boxes (S, 4)."""
    height, width = images.shape[2:]
    columns, across = _along(targets[:, 0::2], donors[:, 0::2], width, fade)
    rows, down = _along(targets[:, 1::2], donors[:, 1::2], height, fade)
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), dim=3)  # (S, H, W, 2) of x, y
    carried = F.grid_sample(others.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    opacity = (down[:, :, None] * across[:, None, :])[:, None]  # (S, 1, H, W)
    return torch.lerp(images.float(), carried, opacity).round().to(torch.uint8)


def _along(target, donor, n_pixels, fade):
    """Along one axis, for each pixel (S, n): its place in the donor's image, -1 … 1, and its opacity, 0 … 1.

    Targets and donors (S, 2) are where boxes begin and end. Places stay half a pixel within the donor's box, or what
    lies beside it would be mixed in.
    """
    centres = (torch.arange(n_pixels, device=target.device) + 0.5) / n_pixels
    within = (centres - target[:, :1]) / (target[:, 1:] - target[:, :1])  # 0 … 1 in the box
    places = donor[:, :1] + within * (donor[:, 1:] - donor[:, :1])
    places = places.clamp(donor[:, :1] + 0.5 / n_pixels, donor[:, 1:] - 0.5 / n_pixels)
    ramp = (torch.minimum(within, 1 - within) / fade).clamp(0, 1)  # 0 at the border
    return 2 * places - 1, ramp.square() * (3 - 2 * ramp)


def _checked(images, boxes, image_index, spurious, core_belief, random):
    """Boxes, image index, spurious and belief as arrays."""
    if not isinstance(random, np.random.Generator):
        raise ValueError(f"random: expected a numpy.random.Generator, got {type(random).__name__}")
    _tensor("images", images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        came = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ValueError(f"images: expected torch.uint8 of shape (B, 3, H, W), got {came}")
    boxes = checks.boxes("boxes", _array("boxes", boxes), 1, 1)
    image_index = checks.sorted_image_index("image_index", _array("image_index", image_index), len(images))
    spurious = checks.truths("spurious", _array("spurious", spurious))
    belief = checks.numbers("core_belief", _array("core_belief", core_belief), 1, "f")
    if belief.size and (belief.min() < 0 or belief.max() > 1):
        raise ValueError(f"core_belief: expected 0…1, got {belief.min():.4g}…{belief.max():.4g}")
    checks.same_length(boxes=boxes, image_index=image_index, spurious=spurious, core_belief=belief)
    return boxes, image_index, spurious, belief


def _tensor(name, values):
    if not isinstance(values, torch.Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(values).__name__}")
    return values


def _array(name, values):
    values = _tensor(name, values).detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()
