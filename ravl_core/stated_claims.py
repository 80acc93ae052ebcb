"""What the sources claim, as they state it, and which rows of the reference run each claim is held against.

Four sources: RaVL (its abstract, tables, figures, reviews and demo, by number), the slide deck on language-guided
abstractions, and the abstract of Yang et al. and the repository of GALS. A figure that these do not state is not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ravl_core.claims import PAPERS_LEAD, verdict
from ravl_core.mitigation_claims import PAPERS_GAIN
from ravl_core.settings import THRESHOLDS
from ravl_core.study import FIGURES_OF_TABLE_3
from ravl_core.summaries import PAPERS_SETTINGS

NOT_TESTABLE, NO_CLAIM = verdict([]), "no claim"
SOURCES = {
    "RaVL 1": "evaluation settings",
    "RaVL 2": "discovery (table 1, figure 2)",
    "RaVL 3": "gap and influence (table 2)",
    "RaVL 4": "mitigation (table 3)",
    "RaVL 5": "models off the shelf (figure 3)",
    "RaVL 6": "asked for by its review",
    "RaVL 7": "the authors' demo",
    "Deck": "language-guided abstractions",
    "Yang et al.": "spurious-aware fine-tuning",
    "GALS": "attention guided by language",
}
STRENGTHS = (0.7, 0.8, 0.9, 0.95, 0.99)  # of the reference run
CUTS = ("Precision@10 > 0.6", "Precision@10 > 0.8")
KINDS = ("real-world", "synthetic")
AHEAD = "ahead"
IMAGES = (
    "the loss says what regions are called; an image's embedding is left to CLIP's loss, which teaches the shortcut"
)
PHOTOGRAPHS = "on photographs the loss changes little: a miniature names half of their objects"
WHY_TABLE_3 = {  # figure of table 3 and kind of data
    "region_overall, real-world": PHOTOGRAPHS,
    "region_worst_group, real-world": PHOTOGRAPHS,
    "region_worst_group, synthetic": "VL-GDRO, whose batches hold every group alike, is level with it",
}
LARGEST = "image worst group above the closest rival, largest cell: real-world"
MINIATURE_TEXTS = "a miniature's text tower, which has read a few hundred captions, hardly tells traits from places"


@dataclass(frozen=True)
class Claim:
    """A claim of a source, and the parts of the reference run that it is held against.

    Attributes
    ----------
    source : one of `SOURCES`.
    claim, paper : what is claimed, and the source's figure.
    parts : names of rows of `ravl_core.ledger.reference_parts`, each under a label that tells it from the others.
    beside : the same of rows that are shown and do not count.
    settled : the verdict where parts cannot give one, "not testable here" or "no claim".
    why : the reason, for whatever does not hold in full; where it was not tested, the likely one.
    claimed : what differences are held against, in points or, of a lead, in per cent.
    """

    source: str
    claim: str
    paper: str
    parts: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    settled: str = ""
    why: str = ""
    claimed: float = 0.0


def _ablation(part: str, what: str, why: str = "") -> Claim:
    """The paper's cell of table 2, and all settings beside it."""
    cell = {"": f"03: ahead of {part}: real-world, rn-mini (the paper's cell)"}
    beside = {"all settings": f"03: ahead of {part}: all settings"}
    return Claim("RaVL 3", f"both find more than {what}", AHEAD, cell, beside, why=why)


def _table_3(metric: str, kind: str) -> Claim:
    """One figure of table 3 on one kind of data, above both cuts of Precision@10."""
    words = metric.replace("_", " ")
    parts = {cut.replace("recision", ""): f"04: {words} ahead of every rival: {kind}, {cut}" for cut in CUTS}
    beside = {"all data": f"04: {words} ahead of every rival: all data, {CUTS[0]}"} if kind == KINDS[0] else {}
    why = IMAGES if metric.startswith("image") else WHY_TABLE_3.get(f"{metric}, {kind}", "")
    paper = AHEAD if kind == KINDS[0] else "not in our sources"
    return Claim("RaVL 4", f"{words} ahead of all, {kind}", paper, parts, beside, why=why)


def _asked(claim: str, parts: Mapping[str, str] | None = None, why: str = "") -> Claim:
    return Claim("RaVL 6", claim, "future work", parts or {}, settled=NO_CLAIM, why=why)


def _deck(claim: str, paper: str, why: str = "", **parts: str) -> Claim:
    return Claim("Deck", claim, paper, {label: f"06: {name}" for label, name in parts.items()}, why=why)


RAVL = (
    Claim("RaVL 1", "settings evaluated", f"{PAPERS_SETTINGS}", {"": "02: settings evaluated"}),
    Claim("RaVL 1", "CLIP-RN50 (and RN101) fine-tuned in them", "RN50: 129 synthetic, 171 real-world",
          {"": "01: settings by initial model"}, settled=NOT_TESTABLE,
          why="CLIP's weights are not run here; two miniatures take their place"),
    Claim("RaVL 2", "Precision@10 above the closest baseline", f"+{PAPERS_LEAD:.0%}",
          {"": "02: mean Precision@10 above the closest baseline"}, claimed=100 * PAPERS_LEAD,
          why="our Spurious-Aware Detection ranks RaVL's own clusters, as it needs a name for every region"),
    Claim("RaVL 2", "ahead of every method at every T", AHEAD,
          {f"T = {t}": f"02: ahead of every method at T = {t}" for t in THRESHOLDS},
          why="Spurious-Aware Detection alone is close: the same clusters, ranked by another rule"),
    Claim("RaVL 2", "ahead of every method on synthetic data", AHEAD,
          {"": "02: ahead of every method on synthetic data"}),
    Claim("RaVL 2", "ahead of every method on real-world data", AHEAD,
          {"": "02: ahead of every method on real-world data"}),
    Claim("RaVL 2", "ahead of every method at every strength", AHEAD,
          {f"V = {v:g}": f"02: ahead of every method at V = {v:g}" for v in STRENGTHS},
          why="Spurious-Aware Detection is close, and on scans the gap may rank the rectangle's absence first"),
    _ablation("without gap", "influence alone"),
    _ablation("without influence", "the gap alone",
              why="on photographs every first finding meets the threshold of influence anyway"),
    _ablation("unweighted gap", "the unweighted gap"),
    *(_table_3(metric, kind) for metric in FIGURES_OF_TABLE_3 for kind in KINDS),
    Claim("RaVL 4", "image worst group, lead in the best cell", f"up to +{PAPERS_GAIN} %",
          {"above 0": f"04: {LARGEST}", "as points": f"04: {LARGEST}, {PAPERS_GAIN} as points",
           "as per cent": f"04: {LARGEST}, {PAPERS_GAIN} as per cent"},
          {"all data": f"04: {LARGEST.replace(KINDS[0], 'all data')}"}, claimed=PAPERS_GAIN,
          why="too few domains and classes for a verdict on photographs alone; on all data it does not hold"),
    Claim("RaVL 5", "retail signage ↔ fast food restaurant, CLIP ViT-B/16", "zero-shot accuracy differs",
          settled=NOT_TESTABLE, why="CLIP's weights and scenes (Places) have to be downloaded; the command is in 05"),
    Claim("RaVL 5", "metal clips ↔ cardiomegaly, PubMedCLIP RN50", "zero-shot accuracy differs",
          settled=NOT_TESTABLE, why="its weights and X-rays have to be downloaded; the command is in 05"),
    Claim("RaVL 5", "a known shortcut is found first, in most models", "not in our sources",
          {"": "05: the first finding is the planted feature"},
          {"hiding it counts": "05: … and hiding it counts (surroundings)"}),
    Claim("RaVL 5", "X-rays: a marker is found and confirmed, in most fits", "not in our sources",
          {"": "05: X-rays, marker found and confirmed"}, {"repaired": "05: X-rays, marker repaired"}),
    _asked("other modalities", {"": "07: documents"}, "audio and video are not at hand"),
    _asked("other region proposals", {"": "03: other regions"}),
    _asked("a benchmark of mitigation methods", {"": "04: recipes compared"}),
    _asked("other region-aware losses", {"": "04: swaps + RaVL above RaVL"}),
    _asked("class imbalance", {"": "07: mixtures"}),
    _asked("sensitivity to clustering", {"": "03: other clusters"}),
    _asked("other architectures", {"": "02: initial models", "with vit-mini": "07: architectures"}),
    Claim("RaVL 7", "zero-shot accuracy of the fine-tuned model", "image 0.782, core region 0.905",
          {"": "01: demo, accuracies"}, settled=NOT_TESTABLE, why="the demo's CLIP-RN50 has to be downloaded"),
    Claim("RaVL 7", "number of clusters", "47 of 20 … 49, silhouette 0.588", {"": "01: demo, clusters"},
          settled=NOT_TESTABLE, why="the demo's CLIP-RN50 has to be downloaded"),
    Claim("RaVL 7", "the attribute found is nine, in most models", "nine", {"": "01: demo, attribute"}),
)  # fmt: skip

OTHERS = (
    Claim("Deck", "LLaVA's keywords repair CLIP on Waterbirds", "ViT-L/14: overall 96.01, worst group 84.74",
          settled=NOT_TESTABLE, why="the weights of CLIP and LLaVA, and Waterbirds; a stand-in below, the code in 06"),
    _deck("overall above plain fine-tuning", "96.01 against 89.35", MINIATURE_TEXTS,
          **{"": "above binary fine-tuning, overall"}),
    _deck("worst group above plain fine-tuning", "84.74 against 61.06", MINIATURE_TEXTS,
          **{"": "above binary fine-tuning, worst group"}),
    _deck("worst group above other repairs", "84.74; Yang et al. 89.7",
          "in the deck, too, Yang et al. are ahead; they are told the feature's name",
          **{name: f"above {name}, worst group" for name in ("RaVL", "Spurious-Aware", "GALS")}),
    _deck("500 images equal 2,000 of plain fine-tuning", "asked", "with few images the rare groups hold a handful",
          **{"": "500 images do what 2,000 do for binary fine-tuning, worst group"}),
    _deck("another task gains by it", "asked",
          "plain fine-tuning loses as much: two classes are no reason to tell objects apart",
          **{"above zero-shot": "another task gains by it: which object",
             "above plain": "another task suffers less than by binary fine-tuning"}),
    _deck("images agree better with words of their objects", "asked",
          "positives share a class, not an object; with own texts alone it rises (06)",
          **{"": "images agree better with what is said of their objects"}),
    _deck("words of backgrounds add to it", "part of the method", MINIATURE_TEXTS,
          **{"": "backgrounds add to it: above the same without them, worst group"}),
    Claim("Deck", "in the place of Stable Diffusion's text encoder", "asked", settled=NOT_TESTABLE,
          why="its weights have to be downloaded"),
    Claim("Yang et al.", "Waterbirds: worst group above CLIP-ERM", "+23 % (RN50), +32 % (ViT), average equal",
          settled=NOT_TESTABLE, why="CLIP's weights and Waterbirds have to be downloaded"),
    Claim("Yang et al.", "worst group above plain fine-tuning, stand-in", AHEAD,
          {"": "06: Spurious-Aware, worst group"}, {"overall": "06: Spurious-Aware, overall"},
          why="its gain differs from seed to seed; with 250 images it is far ahead (06)"),
    Claim("GALS", "Waterbirds-95 and -100: groups, mean / worst",
          "89.03/79.91 against 86.91/73.21; 80.67/57.00 against 72.36/32.20", settled=NOT_TESTABLE,
          why="Waterbirds, and CLIP's weights for its maps, have to be downloaded"),
    Claim("GALS", "groups above plain fine-tuning, stand-in", AHEAD,
          {"mean": "06: GALS, overall", "worst": "06: GALS, worst group"},
          why="its guide is the miniature itself, where GALS asks CLIP"),
)  # fmt: skip

CLAIMS = (*RAVL, *OTHERS)
