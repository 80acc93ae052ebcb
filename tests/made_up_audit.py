"""An audit made by hand: images of noise, four quadrants each, clusters dealt out, every figure invented."""

from dataclasses import dataclass, replace

import numpy as np
import pandas
from tiny import noise

from ravl_core.audits.result import Audit, AuditFinding, Coverage
from ravl_core.discovery import Discovery
from ravl_core.domains.own_images import Note, OwnImages
from ravl_core.kmedoids import Clustering
from ravl_core.masking import Changes, GroupEffect, MaskEffect
from ravl_core.metrics import Interval
from ravl_core.regions import quadrants
from ravl_core.zero_shot import Evaluation

N_CLUSTERS = 5
CLASSES = ("seven", "eight", "nine")
NOTHING = Interval(np.nan, np.nan, np.nan)


@dataclass(frozen=True, eq=False)
class MadeUpFinding(AuditFinding):
    """A finding whose sentence is known."""

    @property
    def sentence(self):
        return f"Cluster {self.cluster} pulls towards {self.attribute_name}."


def made_up_images(n=30, class_names=CLASSES, names=None, notes=()):
    """Images of 64 × 64 pixels that show files of 640 × 480 without their left half; every third pair is a group."""
    return OwnImages(
        images=noise(n),
        labels=np.arange(n) % len(class_names),
        class_names=tuple(class_names),
        names=tuple(names or [f"photo {i}.png" for i in range(n)]),
        sizes=np.tile([640, 480], (n, 1)),
        windows=np.tile([320.0, 0, 640, 480], (n, 1)),
        groups=np.array([f"patient {i // 2}" for i in range(n)]),
        notes=tuple(notes),
    )


def evaluation_of(dataset, seed=0):
    random = np.random.default_rng(seed)

    def answers(rows):
        return random.dirichlet(np.ones(dataset.n_classes), rows)

    return Evaluation(
        image_embeddings=np.tile(np.eye(4)[0], (len(dataset), 1)),
        region_embeddings=np.tile(np.eye(4)[0], (len(dataset.boxes), 1)),
        image_index=dataset.image_index,
        boxes=dataset.boxes,
        labels=dataset.labels,
        class_names=dataset.class_names,
        image_probs=answers(len(dataset)),
        region_probs=answers(len(dataset.boxes)),
    )


def clusters_of(n_regions, seed=0):
    labels = np.random.default_rng(seed).integers(N_CLUSTERS, size=n_regions)
    return Clustering(labels, np.arange(N_CLUSTERS), np.eye(N_CLUSTERS), {N_CLUSTERS: 0.4})


def class_table(class_names, seed):
    """Invented shares with intervals; no image of the last class is without it."""
    random, n = np.random.default_rng(seed), len(class_names)
    table = {"class": list(class_names), "n_in": random.integers(5, 40, n), "n_out": [*range(9, 8 + n), 0]}
    for name in ("accuracy_in", "accuracy_out", "difference", "chosen_in", "chosen_out"):
        value = random.uniform(0.1, 0.9, n) - 0.5 * (name == "difference")
        table |= {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}
    table = pandas.DataFrame(table)
    empty = [name for name in table if name.startswith(("accuracy_out", "difference", "chosen_out"))]
    table.loc[n - 1, empty] = np.nan
    return table


def mask_of(attribute, fill, lowers=0.3):
    """Hiding lowers the attribute's probability in images of other classes; the class has no other region."""

    def changes(start):
        return Changes(*(Interval(x, x - 0.04, x + 0.04) for x in (start, -start / 2, abs(start))))

    others = GroupEffect(12, 11, 1.1, changes(-lowers), changes(-lowers + 0.02))
    own = GroupEffect(6, 0, np.nan, changes(-0.1), Changes(NOTHING, NOTHING, NOTHING))
    return MaskEffect(attribute, fill, others, own)


def stability_of(attribute_name):
    return pandas.DataFrame(
        {
            "kind": ["seed", "seed", "candidates"],
            "variation": ["1", "2", "C … 2C-1"],
            "n_clusters": [7, 8, 4],
            "attribute": [attribute_name, attribute_name, None],
            "overlap": [0.9, 0.8, 0.1],
            "found_again": [True, True, False],
        }
    )


def finding_of(cluster, attribute, dataset, clustering, fills=("surroundings", "blur")):
    regions = np.flatnonzero(clustering.labels == cluster)[::-1]
    name = dataset.class_names[attribute]
    return MadeUpFinding(
        cluster=cluster,
        clustering=clustering,
        attribute=attribute,
        attribute_name=name,
        regions=regions,
        n_images=len(np.unique(dataset.image_index[regions])),
        pull=0.21,
        gap=0.87,
        p_value=0.001,
        times_others=4.5,
        influence=np.nan,
        influence_images=0,
        chosen=Interval(0.31, 0.22, 0.4),
        chosen_in=0.62,
        chosen_out=0.31,
        n_in=40,
        n_out=35,
        table=class_table(dataset.class_names, seed=cluster),
        masks={fill: mask_of(attribute, fill) for fill in fills},
        stability=stability_of(name),
        words=(("mark", 1.84), ("arrow", 1.2)),
        associations=pandas.DataFrame({"column": ["hospital"], "cramers_v": [0.44]}),
    )


def columns_of(class_names):
    """Two values of one column, the first of which cannot be told from the class."""
    named = {"column": "hospital", "value": ["east <1>", "west"], "attribute": class_names[0], "v_with_label": 0.61}
    counts = {"n_images": [20, 10], "n_in": [12, 0], "n_out": [8, 0], "p_value": [0.004, 1.0]}
    chosen = {"chosen": [0.3, np.nan], "chosen_low": [0.1, np.nan], "chosen_high": [0.5, np.nan]}
    return pandas.DataFrame(named | counts | chosen | {"chosen_in": [0.6, np.nan], "chosen_out": [0.3, np.nan]})


def made_up_audit(n_findings=2, **images):
    """An audit of `made_up_images` with up to as many findings as there are clusters."""
    images = made_up_images(**images)
    boxes, image_index = quadrants(len(images), *images.images.shape[1:3])
    dataset = images.dataset(boxes, image_index, ("a photo of a {}", "{}"))
    clustering = clusters_of(len(boxes))
    last = dataset.n_classes - 1
    findings = [finding_of(cluster, last - cluster % 2, dataset, clustering) for cluster in range(n_findings)]
    return Audit(
        model="made-up",
        options={"regions": "quadrants", "templates": ("a photo of a {}", "{}"), "seed": 0},
        images=images,
        dataset=dataset,
        evaluation=evaluation_of(dataset),
        discovery=Discovery((), clustering, None),
        findings=tuple(findings),
        columns=columns_of(dataset.class_names),
        detectable=pandas.DataFrame({"n_images": [3, 15], "prevalence": [0.1, 0.5], "shift": [np.nan, 0.23]}),
        coverage=Coverage(len(boxes), (4.0, 4.0, 4.0), 0, 1.0, 0.25, 0.8, 10),
        proposals=pandas.DataFrame(
            {
                "regions": ["3 × 3 grid", "superpixels"],
                "n_regions": [270, 300],
                "n_clusters": [8, 9],
                "n_findings": [1, 0],
                "attribute": [dataset.class_names[last], None],
                "overlap": [0.7, np.nan],
            }
        ),
    )


def with_first_finding(audit, **changes):
    """The audit with its first finding changed."""
    return replace(audit, findings=(replace(audit.findings[0], **changes), *audit.findings[1:]))


NOTES = (
    Note("grey.tif", "16-bit", "shifted by 8 bits", True),
    Note("half.jpg", "truncated", "image file is truncated", False),
    Note("deep.tif", "16-bit", "shifted by 4 bits", True),
)
