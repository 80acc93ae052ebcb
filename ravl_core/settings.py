"""Evaluation settings: a spurious correlation of known strength, planted by sampling.

A setting is domain × initial model × spurious feature × textual attribute × strength × seed. Its fine-tuning set
holds the correlation, its val and test sets hold none.
"""

from dataclasses import asdict, dataclass

import numpy as np

from ravl_core.checks import nearest, whole_number
from ravl_core.domains import Dataset, load_domain
from ravl_core.metrics import GroupAccuracies
from ravl_core.randomness import stream

THRESHOLDS = (10, 20, 30, 40)  # T_eval, in points
TOLERANCE = 0.01  # between the strength asked for and the one reached


@dataclass(frozen=True)
class Setting:
    """What is planted where, and how many images show it."""

    domain: str = "digits"
    initial: str = "rn-mini"  # the model that fine-tuning starts from
    pretrained: str | None = None  # open_clip's tag of its weights, where the name alone does not tell
    feature: str = "red rectangle"
    attribute: int = 9  # class index
    strength: float = 0.95  # Cramér's V of the class × feature table of the fine-tuning set; 0 = a control
    seed: int = 0
    n_finetuning: int = 3000
    n_val: int = 1000
    n_test: int = 2000

    @property
    def arguments(self) -> dict:
        """The setting as plain values, for a record."""
        return asdict(self)


@dataclass(frozen=True)
class SettingData:
    """The three sets of a setting; they share no source image."""

    finetuning: Dataset
    val: Dataset
    test: Dataset
    reached_strength: float


def build_setting(setting: Setting) -> SettingData:
    """Sample the three sets of a setting.

    Raises
    ------
    ValueError
        An unknown domain, feature or attribute, or a strength that so few images cannot show.
    """
    for name in ("n_finetuning", "n_val", "n_test", "seed"):
        whole_number(name, getattr(setting, name), 0)
    domain = load_domain(setting.domain)
    if setting.feature not in domain.features:
        came = f"{setting.feature!r}{nearest(setting.feature, domain.features)}"
        raise ValueError(f"feature: {setting.domain} offers {', '.join(domain.features)}, got {came}")
    n_classes = len(domain.class_names)
    random = stream(setting.seed, "plant", setting.attribute, setting.strength)
    table = plant_correlation(setting.n_finetuning, n_classes, setting.attribute, setting.strength, random)
    sets = {"finetuning": _compose(domain, "finetuning", table, setting)}
    for split, n_images in (("val", setting.n_val), ("test", setting.n_test)):
        sets[split] = _compose(domain, split, balanced_table(n_images, n_classes), setting)
    return SettingData(**sets, reached_strength=table_strength(table))


def plant_correlation(
    n_images: int, n_classes: int, attribute: int, strength: float, random: np.random.Generator
) -> np.ndarray:
    """Counts of a class × feature table whose Cramér's V is the strength asked for.

    Starts with the feature in every image of the attribute's class and in no other, then moves one image a class
    towards independence, in rounds of random order, until χ² ≤ V²·n. V = 0 is the balanced table. (RaVL's
    builder moves 1–3 images a class and round, on sets of about 10,000.)

    Returns
    -------
    (C, 2) int64: images of each class without and with the feature.

    Raises
    ------
    ValueError
        The attribute is no class, the strength is not in [0, 1), or no table of so few images comes within 0.01.
    """
    if n_images < n_classes:
        raise ValueError(f"n_images: expected at least one image a class ({n_classes}), got {n_images}")
    if not isinstance(attribute, int | np.integer) or not 0 <= attribute < n_classes:
        raise ValueError(f"attribute: expected a class index in 0…{n_classes - 1}, got {attribute!r}")
    if not isinstance(strength, int | float | np.integer | np.floating) or not 0 <= strength < 1:
        raise ValueError(f"strength: Cramér's V lies in [0, 1), got {strength!r}")
    table = balanced_table(n_images, n_classes)
    if strength == 0:
        return table
    sizes = table.sum(axis=1)
    with_feature = np.where(np.arange(n_classes) == attribute, sizes, 0)
    step = np.where(np.arange(n_classes) == attribute, -1, 1)
    nearest = np.stack([sizes - with_feature, with_feature], axis=1)
    for _ in range(sizes.min()):  # so no class gives or takes more images than it has
        for label in random.permutation(n_classes):
            with_feature[label] += step[label]
            moved = np.stack([sizes - with_feature, with_feature], axis=1)
            closer = abs(table_strength(moved) - strength) < abs(table_strength(nearest) - strength)
            nearest = moved if closer else nearest
            if table_strength(moved) <= strength:
                return _checked(nearest, strength)
    return _checked(nearest, strength)


def _checked(table: np.ndarray, strength: float) -> np.ndarray:
    reached = table_strength(table)
    if abs(reached - strength) > TOLERANCE:
        smallest = table.sum(axis=1).min()
        raise ValueError(
            f"strength: V = {strength} cannot be reached within {TOLERANCE} with {table.sum()} images: the nearest "
            f"table has V = {reached:.3f}, since one image of a class of {smallest} is {1 / smallest:.1%} of it; "
            "ask for more images"
        )
    return table


def balanced_table(n_images: int, n_classes: int) -> np.ndarray:
    """Equal classes, half of each with the feature: (C, 2). Remainders go to the first classes, without it."""
    sizes = np.full(n_classes, n_images // n_classes) + (np.arange(n_classes) < n_images % n_classes)
    return np.stack([sizes - sizes // 2, sizes // 2], axis=1)


def table_strength(table: np.ndarray) -> float:
    """Cramér's V of a (C, 2) table of counts: 0 independent, 1 each side tells the other."""
    n_images = table.sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / n_images  # under independence
    chi_square = ((table - expected) ** 2 / np.where(expected > 0, expected, 1)).sum()
    return float(np.sqrt(chi_square / n_images))  # of two columns, so the smaller side minus one is 1


def _compose(domain, split: str, table: np.ndarray, setting: Setting) -> Dataset:
    labels, present = (side.ravel() for side in np.indices(table.shape))
    labels, present = np.repeat(labels, table.ravel()), np.repeat(present, table.ravel()).astype(bool)
    order = stream(setting.seed, split, "order").permutation(len(labels))
    return domain.compose(split, labels[order], present[order], setting.seed, setting.feature)


def learned_margin(groups: GroupAccuracies, attribute: int) -> float:
    """How far a model has learned the planted correlation, in points; the setting is valid at T if this is ≥ T.

    The smaller of two differences: accuracy on the attribute's class with minus without the feature, and accuracy
    on the other classes without minus with it. NaN if one of the four has no image.
    """
    correct = np.nan_to_num(groups.accuracy) * groups.count  # (C, 2) without, with; none in an empty group
    others = np.arange(len(correct)) != attribute
    gain = groups.accuracy[attribute, 1] - groups.accuracy[attribute, 0]
    with np.errstate(invalid="ignore"):
        without, with_feature = correct[others].sum(axis=0) / groups.count[others].sum(axis=0)
    return float(100 * np.minimum(gain, without - with_feature))
