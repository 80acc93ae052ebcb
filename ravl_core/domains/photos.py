"""Photographs that ship with scikit-image, cut out and put together anew; nothing is downloaded.

All classes but the coin have one photograph, so what fine-tuning and test sets share is the very object, in other
places, sizes and light: a model that reads "cat" here has seen this cat. Coins and the parts that backgrounds are
cropped from differ between the splits. `coco_objects` is the same with other objects in every split.

For most of the photographs scikit-image states "public domain" or CC0 (see `skimage.data`). It states nothing for the
stereo pair with the motorcycle, which is from the Middlebury set (Scharstein et al. 2014), the moon and the page.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ravl_core.checks import choice
from ravl_core.domains.composites import CutOut, Material, compose, cut_out, red_rectangles
from ravl_core.domains.dataset import Dataset
from ravl_core.randomness import stream

SPLITS = ("pretraining", "finetuning", "val", "test")
CLASS_NAMES = ("cat", "coffee cup", "astronaut", "space shuttle", "motorcycle", "coin", "photographer", "helmet")
FEATURES = ("red rectangle", "horse", "retina", "snake logo")
DISTRACTORS = ("mission patch", "cardboard box", "bottle", "page", "name badge")
HORSE = (45, 30, 22)  # a silhouette has no colour of its own

# Outlines in pixels of the photograph: (left, top, right, bottom) of an ellipse, or x, y of a polygon's corners.
_CAT = (32, 110, 33, 60, 40, 15, 52, 2, 325, 2, 398, 2, 380, 40, 357, 75, 361, 115, 356, 155, 340, 185, 322, 210,
        312, 240, 290, 268, 255, 281, 200, 277, 150, 264, 100, 235, 60, 190, 40, 150)  # fmt: skip
_ASTRONAUT = (22, 400, 27, 340, 42, 290, 62, 248, 112, 206, 116, 186, 135, 160, 160, 149, 184, 148, 181, 131, 165, 124,
              155, 95, 157, 62, 190, 32, 225, 16, 260, 22, 288, 45, 300, 80, 298, 112, 275, 136, 262, 138, 256, 172,
              290, 205, 303, 235, 304, 243, 326, 246, 345, 275, 361, 335, 361, 345, 335, 361, 302, 390,
              296, 400)  # fmt: skip
_SHUTTLE = (413, 0, 404, 5, 397, 28, 396, 50, 387, 43, 382, 55, 380, 112, 378, 180, 370, 195, 355, 207, 355, 222,
            376, 229, 367, 258, 370, 272, 385, 263, 399, 268, 412, 262, 412, 240, 424, 240, 426, 262, 432, 263,
            445, 266, 458, 262, 453, 231, 456, 229, 455, 205, 454, 60, 445, 41, 436, 52, 435, 25, 425, 3)  # fmt: skip
_MOTORCYCLE = (94, 197, 140, 200, 139, 152, 151, 145, 166, 160, 184, 159, 246, 167, 279, 187, 357, 190, 391, 179,
               385, 160, 357, 170, 360, 160, 385, 145, 413, 128, 450, 140, 478, 154, 469, 126, 503, 115, 505, 100,
               515, 97, 533, 112, 530, 124, 545, 122, 561, 132, 575, 118, 582, 131, 566, 143, 560, 165, 545, 186,
               552, 193, 552, 210, 580, 262, 590, 265, 625, 280, 644, 307, 664, 335, 682, 391, 667, 441, 630, 449,
               580, 430, 536, 385, 505, 329, 500, 280, 492, 225, 478, 235, 484, 290, 477, 357, 435, 380, 352, 371,
               340, 385, 340, 434, 324, 434, 329, 385, 312, 363, 276, 378, 240, 399, 195, 402, 151, 380, 126, 340,
               122, 307, 134, 273, 156, 246, 112, 248)  # fmt: skip
_PHOTOGRAPHER = (0, 250, 20, 228, 60, 160, 90, 135, 130, 122, 150, 106, 162, 103, 170, 80, 195, 65, 225, 68, 250, 85,
                 268, 105, 270, 125, 260, 140, 322, 138, 325, 150, 320, 168, 331, 180, 331, 195, 318, 220, 300, 245,
                 304, 272, 290, 285, 245, 312, 207, 295, 140, 380, 147, 420, 0, 420)  # fmt: skip
_HELMET = (277, 470, 280, 430, 292, 400, 310, 374, 335, 357, 370, 346, 400, 343, 440, 352, 470, 378, 487, 410,
           497, 455, 508, 460, 508, 511, 282, 511)  # fmt: skip
_OUTLINES = {
    "cat": ("chelsea", _CAT),
    "coffee cup": ("coffee", (76, 66, 480, 390), (172, 18, 410, 208)),
    "astronaut": ("astronaut", _ASTRONAUT),
    "space shuttle": ("astronaut", _SHUTTLE),
    "motorcycle": ("stereo_motorcycle", _MOTORCYCLE),
    "photographer": ("camera", _PHOTOGRAPHER),
    "helmet": ("astronaut", _HELMET),
    "retina": ("retina", (14, 14, 1396, 1396)),
    "mission patch": ("astronaut", (132, 348, 209, 424)),
    "cardboard box": ("stereo_motorcycle", (531, 32, 592, 32, 590, 98, 531, 95)),
    "snake logo": ("logo", (12, 12, 488, 488)),
    "page": ("page", (90, 0, 290, 0, 290, 190, 90, 190)),
    "name badge": ("astronaut", (281, 341, 328, 347, 326, 376, 284, 373)),
    "bottle": ("stereo_motorcycle", (401, 60, 406, 52, 414, 52, 419, 60, 419, 91, 401, 91)),
}
_COINS = (  # a row for each split
    ((22, 34, 67, 74), (80, 39, 120, 74), (132, 28, 179, 74), (192, 29, 240, 73), (255, 34, 297, 72),
     (305, 16, 364, 72)),
    ((25, 104, 66, 145), (84, 107, 122, 145), (134, 110, 173, 145), (186, 105, 226, 144), (246, 95, 296, 144),
     (317, 105, 356, 145)),
    ((26, 177, 62, 217), (80, 174, 124, 217), (135, 179, 174, 217), (189, 170, 236, 216), (251, 172, 296, 217),
     (315, 156, 379, 218)),
    ((18, 233, 74, 288), (92, 244, 135, 287), (144, 236, 201, 288), (219, 240, 269, 288), (276, 239, 326, 289),
     (335, 247, 381, 289)),
)  # fmt: skip
# Photograph; left, top, right, bottom of what may be a background; its tint: the textures are grey as they ship.
_BACKGROUNDS = (
    ("grass", (0, 0, 512, 512), (0.8, 1.1, 0.55)),
    ("grass", (0, 0, 512, 512), (1.1, 1.05, 0.65)),
    ("gravel", (0, 0, 512, 512), (1.1, 1.05, 0.95)),
    ("gravel", (0, 0, 512, 512), (0.9, 0.95, 1.05)),
    ("brick", (0, 0, 512, 512), (1.15, 0.95, 0.8)),
    ("brick", (0, 0, 512, 512), (1.0, 1.0, 1.0)),
    ("coffee", (484, 110, 600, 400), (1.0, 1.0, 1.0)),
    ("rocket", (340, 0, 440, 370), (1.3, 1.3, 1.3)),
    ("rocket", (210, 0, 550, 120), (1.6, 1.6, 1.6)),
    ("camera", (290, 0, 512, 110), (0.9, 1.0, 1.1)),
    ("camera", (352, 245, 512, 400), (0.85, 1.05, 0.6)),
    ("moon", (0, 200, 512, 512), (1.05, 1.0, 0.95)),
    ("stereo_motorcycle", (0, 310, 120, 500), (1.0, 1.0, 1.0)),
    ("stereo_motorcycle", (0, 0, 176, 96), (1.0, 1.0, 1.0)),
    ("immunohistochemistry", (0, 0, 512, 512), (1.0, 1.0, 1.0)),
)


@dataclass(frozen=True)
class Photos:
    """The domain; see the module's text."""

    name: str = "photos"
    class_names: tuple[str, ...] = CLASS_NAMES
    features: tuple[str, ...] = FEATURES

    def compose(
        self, split: str, labels: np.ndarray, feature_present: np.ndarray, seed: int, feature: str = "red rectangle"
    ) -> Dataset:
        """One image for each label (N,), with the feature where `feature_present` (N,) says so.

        Raises
        ------
        ValueError
            An unknown split or feature, a label that is no class, or sides of different lengths.
        """
        material = _material(choice("split", split, SPLITS), choice("feature", feature, FEATURES))
        return compose(material, labels, feature_present, stream(seed, "photos", split))


def domain() -> Photos:
    """The photos domain."""
    return Photos()


@cache
def _material(split: str, feature: str) -> Material:
    part = SPLITS.index(split)
    return Material(
        cores=tuple(_coins(part) if name == "coin" else (_object(name),) for name in CLASS_NAMES),
        feature=red_rectangles() if feature == "red rectangle" else (_object(feature),),
        distractors=tuple(map(_object, DISTRACTORS)),
        backgrounds=tuple(_background(part, *background) for background in _BACKGROUNDS),
    )


@cache
def _photograph(name: str) -> np.ndarray:
    """A photograph of `skimage.data` as (h, w, 3) uint8."""
    from skimage import data

    picture = getattr(data, name)()
    picture = picture[0] if isinstance(picture, tuple) else picture  # the left one of a stereo pair
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., :3]


@cache
def _object(name: str) -> CutOut:
    from skimage import data

    if name == "horse":  # a silhouette: False is the horse
        opacity = 1.0 - data.horse()
        return cut_out(name, np.full((*opacity.shape, 3), HORSE, dtype=np.uint8), opacity)
    photograph, *outlines = _OUTLINES[name]
    return cut_out(name, _photograph(photograph), _opacity(photograph, *outlines), _source(name))


def _coins(part: int) -> tuple[CutOut, ...]:
    first = len(CLASS_NAMES) + part * len(_COINS[part])  # after the photographs of the classes
    picture = _photograph("coins")
    return tuple(cut_out("coin", picture, _opacity("coins", o), first + i) for i, o in enumerate(_COINS[part]))


def _source(name: str) -> int:
    return CLASS_NAMES.index(name) if name in CLASS_NAMES else -1


def _opacity(photograph: str, *outlines: tuple[int, ...]) -> np.ndarray:
    """1 inside the outlines, 0 outside, with a soft edge: (h, w)."""
    from PIL import Image, ImageDraw, ImageFilter

    height, width = _photograph(photograph).shape[:2]
    mask = Image.new("L", (width, height))
    for outline in outlines:
        draw = ImageDraw.Draw(mask)
        (draw.ellipse if len(outline) == 4 else draw.polygon)(outline, fill=255)
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(1)), dtype=np.float64) / 255


def _background(part: int, photograph: str, box: tuple[int, ...], tint: tuple[float, ...]) -> CutOut:
    """The quarter of it that is this split's."""
    left, top, right, bottom = box
    width, height = (right - left) // 2, (bottom - top) // 2
    left, top = left + part % 2 * width, top + part // 2 * height
    quarter = _photograph(photograph)[top : top + height, left : left + width]
    return CutOut("", (quarter * np.array(tint)).clip(0, 255).astype(np.uint8))
