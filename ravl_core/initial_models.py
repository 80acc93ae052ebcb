"""How the miniatures that settings start from are pre-trained; `ravl_core.pretraining` does it."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Pretraining:
    """How a miniature is made."""

    domain: str = "digits"
    steps: int = 60  # at most
    competence: float | None = None  # stop at this zero-shot accuracy, 0 … 1; None: after `steps`
    batch_size: int = 128
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    n_images: int = 4000
    names_all: bool = False  # captions name whatever is in an image, not its class alone
    seed: int = 0


SHIPPED = {"rn-mini": Pretraining()}
# The domains whose other miniatures are made when they are asked for. COCO's objects are hard at this size: more
# training brings a miniature to little more than this.
MADE = {
    "digits": Pretraining("digits", steps=300, competence=0.5),
    "photos": Pretraining("photos", steps=300, competence=0.5, learning_rate=1e-3, names_all=True),
    "habitats": Pretraining("habitats", steps=300, competence=0.8, learning_rate=5e-4, n_images=2000),
    "mnist": Pretraining("mnist", steps=300, competence=0.5),
    "fashion_mnist": Pretraining("fashion_mnist", steps=300, competence=0.5),
    "coco_objects": Pretraining(
        "coco_objects", steps=600, competence=0.4, learning_rate=1e-3, n_images=8000, names_all=True
    ),
}
# A vision transformer learns more slowly than a ResNet of its size.
CHANGES = {"vit-mini": {"steps": 1500, "learning_rate": 1e-3}}


def plan_of(name: str, plan: Pretraining) -> Pretraining:
    """How the miniature of that name is made, by what the plan of the domain has for most."""
    return replace(plan, **CHANGES.get(name, {}))
