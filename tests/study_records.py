"""Made-up records of a study, in the shape in which `ravl_core.tasks.run_task` gives its results.

Numbers are drawn from the seed of the setting, so that a record is the same wherever it is made.
"""

import numpy as np

from ravl_core.slicing import CHANCE, NAMED, ON_CLUSTERS, ON_THEIR_OWN

METHODS = (*ON_THEIR_OWN, *ON_CLUSTERS, "RaVL, controlled", CHANCE)
RECIPES = ("paper", "pull", "controlled")
VARIATIONS = (("seed", "seed + 1"), ("start", "uniform"), ("proposals", "quadrants"))
DEFAULTS = {"domain": "mnist", "initial": "rn-mini", "pretrained": None, "feature": "red rectangle", "attribute": 3}
SIZES = {"strength": 0.9, "seed": 0, "n_finetuning": 1000, "n_val": 1000, "n_test": 1000}


def figures(random):
    names = ("image_overall", "image_worst_group", "region_overall", "region_worst_group")
    return {name: float(random.uniform(0.2, 1)) for name in names}


def record(trained="head", stable=False, repairs=(), followed=(), **setting):
    """A whole record; `setting` changes the setting's arguments, `repairs` and `followed` name what repaired it."""
    setting = DEFAULTS | SIZES | setting
    random = np.random.default_rng([setting["seed"], trained == "tower"])
    found = random.random() < 0.75
    made = {
        "arguments": {
            "setting": setting,
            "budget": {"trained": trained, "epochs": 3, "learning_rate": 1e-3},
            "repairs": [{"name": name, "followed": name in followed} for name in repairs],
            "stability": stable,
        },
        "metrics": {
            "reached_strength": setting["strength"] + 0.003,
            "margin": float(random.uniform(-5, 60)),
            "initial": figures(random) | {"groups": groups(setting["seed"], 0)},
            "standard": figures(random) | {"final_loss": 1.0, "groups": groups(setting["seed"], 1)},
            "discovery": discovery(random, found, setting),
            "stability": [variation(random, *names) for names in VARIATIONS] if stable else [],
            "repairs": [],
        },
    }
    return repaired(made, repairs, followed) if repairs else made


def groups(*seed):
    """Accuracies and counts (3, 2) of three classes without and with the feature; some groups have no image."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 4, (3, 2))
    accuracy = np.where(counts > 0, random.random((3, 2)).round(6), None)
    return {"image_accuracy": accuracy.tolist(), "image_count": counts.tolist()}


def repaired(made, names, followed):
    """The record with what repairs brought; of discovery it then holds the paper's method and chance alone."""
    setting, metrics = made["arguments"]["setting"], made["metrics"]
    random = np.random.default_rng([setting["seed"], 7])
    metrics["finetuning_groups"] = random.integers(1, 500, (3, 2)).tolist()
    metrics["repairs"] = [repair(setting["seed"], name, name in followed) for name in names]
    methods = {name: metrics["discovery"]["methods"][name] for name in ("RaVL", CHANCE)}
    metrics["discovery"] |= {"methods": methods, "inference": None, "by_size": []}
    return made


def repair(seed, name, followed=False):
    """What one repair brought; its numbers are drawn from the seed and its name."""
    random = np.random.default_rng([seed, *name.encode()])
    said = random.random() < 0.8
    return {
        "name": name,
        "recipe": "ravl",
        "options": {"clip_weight": 0.5},
        "assignment": str(random.choice(["discovered", "true", "none"])),
        "learning_rate": float(random.choice([3e-4, 1e-3])),
        "start": "initial",
        "rounds": 1,
        "followed": followed,
        "assignment_recall": float(random.random()),
        "assignment_precision": float(random.random()) if said else None,
        "val_worst_group": float(random.random()),
        "margin": float(random.uniform(-5, 40)) if said else None,
        "final_loss": 1.0,
        "followed_up": follow_up(random) if followed and random.random() < 0.9 else None,
        "groups": groups(seed, len(name)),
    } | figures(random)


def follow_up(random):
    """The found cluster and stage 1 once more, as `ravl_core.repairs.follow_up` has them, in a smaller form."""
    before, after = ({"gap": float(random.random()), "influence": None, "p_value": 0.001} for _ in range(2))
    part = {"n": int(random.integers(99)), "control_area": None, "effect": {"probability": ends(random)}}
    return {
        "same": {"cluster": 3, "attribute": None, "before": before, "after": after},
        "again": {"n_findings_after": 2, "gone": bool(random.random() < 0.5), "place": None},
        "mask_before": {"fill": "surroundings", "others": part},
        "mask": {"fill": "surroundings", "others": part | {"effect": {"probability": ends(random, there=False)}}},
    }


def discovery(random, found, setting):
    methods = {name: judged(random) for name in METHODS}
    if setting["domain"] == "coco_objects":
        methods[NAMED] = judged(random)
    methods["RaVL"] |= {} if found else {"precision_at_10": 0.0, "attribute": None, "n_regions": 0}
    return {
        "n_findings": int(random.integers(1, 9)) if found else 0,
        "n_clusters": int(random.integers(20, 50)),
        "attribute": methods["RaVL"]["attribute"],
        "gap": float(random.uniform(0, 5)) if found else None,
        "influence": float(random.uniform(0.25, 1)) if found else None,
        "influence_images": int(random.integers(1, 90)) if found else 0,
        "methods": methods,
        "inference": inference(random, found),
        "by_size": [size_row(random, n, setting) for n in (100, 200, 500, 1000)],
    }


def judged(random):
    named = random.random() < 0.8
    return {
        "precision_at_10": float(random.integers(11) / 10),
        "image_precision_at_10": float(random.integers(11) / 10),
        "average_precision": float(random.random()),
        "attribute": int(random.integers(10)) if named else None,
        "n_regions": int(random.integers(1, 500)),
        "reason": "" if named else "some",
    }


def ends(random, there=True):
    return sorted(float(value) for value in random.random(3)) if there else [None] * 3


def inference(random, found):
    first = None
    if found:
        first = {name: ends(random) for name in ("gap", "difference")}
        first["influence"] = ends(random, there=random.random() < 0.7)
        first |= {"attribute": int(random.integers(10)), "influence_images": int(random.integers(90))}
        first |= {"n_sources": int(random.integers(1, 1000)), "gap_p": float(random.choice([0.001, 0.02, 0.3, 0.05]))}
    significant = [
        {
            "cluster": int(random.integers(40)),
            "attribute": int(random.integers(10)),
            "pull": float(random.random()),
            "gap": float(random.random()),
            "p_value": float(random.integers(1, 50) / 1000),
            "times_others": float(random.uniform(2, 50)),
            "feature_share": float(random.random()),
        }
        for _ in range(random.integers(3))
    ]
    smallest = float(random.choice([0.001, 0.05, 0.051, 0.6]))
    return {"first": first, "smallest_gap_p": smallest, "significant": significant}


def brief(random, attribute=None):
    """Precision and attribute, which is often the given one."""
    named = random.choice(["right", "other", "none"], p=[0.5, 0.3, 0.2])
    attribute = attribute if named == "right" else int(random.integers(10)) if named == "other" else None
    return {"precision_at_10": float(random.integers(11) / 10), "attribute": attribute}


def size_row(random, n_images, setting):
    return {"n_images": n_images} | {name: brief(random, setting["attribute"]) for name in RECIPES}


def variation(random, kind, name):
    recipes = {
        recipe: brief(random, 4) | {"agrees": bool(random.random() < 0.6), "overlap": float(random.random())}
        for recipe in RECIPES
    }
    sizes = {"n_clusters": int(random.integers(20, 50)), "n_regions": int(random.integers(500, 4000))}
    return {"kind": kind, "variation": name} | sizes | recipes


def study(n_repetitions=2):
    """Records in a grid's order: two domains, strengths, controls, some of whole towers, and margins of all kinds."""
    cells = [
        {"domain": domain, "attribute": attribute, "strength": strength, "initial": initial}
        for _ in range(n_repetitions)
        for domain in ("mnist", "coco_objects")
        for strength in (0.0, 0.8, 0.95)
        for attribute in (3, 0, 1)
        for initial in ("rn-mini", "rn-mini-deep")
    ]
    made = [record(stable=at % 3 == 0, seed=900 - at, **cell) for at, cell in enumerate(cells)]
    made[5:5] = [record("tower", seed=1000 + at, attribute=at) for at in range(3)]
    made[4]["metrics"]["margin"] = made[20]["metrics"]["margin"] = None
    made[11]["metrics"]["margin"] = 9.999999999999998  # ten points, but for rounding
    return made
