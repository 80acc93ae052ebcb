"""The parity ledger: what of ours equals which published implementation, where it departs from it, and the switch.

Each row names a test that compares the two, and the reference outputs below `tests/golden` that it compares with; where
nothing was published, or could be run, the test compares with literal loops over the formulas, or with a library.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

NO_SWITCH = "none"


@dataclass(frozen=True)
class Parity:
    """One published implementation, and ours.

    Attributes
    ----------
    implementation, commit : whose, and the commit that reference outputs are of; "" where there are none.
    ours : dotted names of functions and classes.
    tests : "file.py::test" below `tests/`.
    golden : files below `tests/golden`.
    tolerance : how close the test wants them.
    departures : pairs of what differs and the parameter that changes it, "dotted.name(parameter)", or "none".
    """

    implementation: str
    ours: tuple[str, ...]
    tests: tuple[str, ...]
    tolerance: str
    golden: tuple[str, ...] = ()
    commit: str = ""
    departures: tuple[tuple[str, str], ...] = ()


def parity_table(rows: Iterable[Parity]) -> pd.DataFrame:
    """One row an implementation and departure, the first columns repeated: as `Parity`, with departure and switch."""
    found = []
    for row in rows:
        names = {"ours": row.ours, "test": row.tests, "reference outputs": row.golden}
        told = {"implementation": row.implementation, "commit": row.commit}
        told |= {name: ", ".join(each) for name, each in names.items()} | {"tolerance": row.tolerance}
        found += [told | {"departure": what, "switch": switch} for what, switch in row.departures or (("", ""),)]
    return pd.DataFrame(found)


_MITIGATION, _SLICING = "ravl_core.mitigation", "ravl_core.slicing"
EXACT = "labels, medoids and orders exact; others 1e-6"

PARITY = (
    Parity(
        "RaVL stage 1, clustering (Stanford-AIMI/RaVL, scikit-learn-extra)",
        ("ravl_core.kmedoids.cluster_regions", "ravl_core.kmedoids.k_medoids"),
        ("test_kmedoids.py::test_clusters_of_the_published_code", "test_kmedoids.py::test_k_medoids_is_the_plain_loop"),
        EXACT,
        ("ravl_discover/case1.npz", "ravl_discover/case4_empty.npz"),
        "0bd4c4a",
        (
            ("a medoid in another cluster is compared with itself; emptied clusters are dropped", NO_SWITCH),
            ("numbers of clusters from the number of distinct embeddings on are left out", NO_SWITCH),
            ("medoids may start anywhere", "ravl_core.kmedoids.cluster_regions(start)"),
        ),
    ),
    Parity(
        "RaVL stage 1, scores and ranking (Stanford-AIMI/RaVL)",
        ("ravl_core.discovery.discover", "ravl_core.discovery.score_clusters", "ravl_core.discovery.rank_regions"),
        (
            "test_discovery.py::test_findings_of_the_published_code",
            "test_discovery.py::test_scores_and_ranks_of_the_published_code_on_given_clusters",
            "test_discovery.py::test_scores_are_those_of_the_plain_loops",
        ),
        EXACT,
        ("ravl_discover/case1.npz", "ravl_discover/case4_empty.npz"),
        "0bd4c4a",
        (
            ("nothing found is an empty result, where the published code fails", NO_SWITCH),
            ("threshold of influence, 0.25 as published", "ravl_core.discovery.discover(influence_threshold)"),
            ("numbers of clusters, 2C … 5C-1 as published", "ravl_core.discovery.discover(candidates)"),
        ),
    ),
    Parity(
        "RaVL stage 2, the formulas (never released)",
        ("ravl_core.losses.RegionAwareLoss",),
        (
            "test_losses.py::test_golden_formulas",
            "test_losses.py::test_equals_literal_loops_on_ragged_batches",
        ),
        "1e-6 relative",
        ("ravl_stage2_formula/a.npz", "ravl_stage2_formula/d_no_spurious.npz"),
        departures=(
            ("the sum over labels is over the batch's samples", "ravl_core.losses.RegionAwareLoss(labels_in_batch)"),
            ("an image without a relevant region leaves the mean", NO_SWITCH),
            ("λ, 0.8 as in the paper", f"{_MITIGATION}.ravl.RegionAware(clip_weight)"),
        ),
    ),
    Parity(
        "RaVL's builder of MNIST settings (Stanford-AIMI/RaVL)",
        ("ravl_core.settings.plant_correlation",),
        ("test_settings.py::test_the_strength_is_reached",),
        "Cramér's V within 0.01; no reference outputs",
        departures=(("one image a class and round is moved, where the published code moves 1 to 3", NO_SWITCH),),
    ),
    Parity(
        "ViLLA's region embeddings (StanfordMIMI/villa)",
        ("ravl_core.towers.ResNetTower", "ravl_core.regions.roi_align", "ravl_core.towers.attention_pool"),
        (
            "test_regions.py::test_trunk_and_regions_equal_villa",
            "test_regions.py::test_whole_image_equals_the_published_attention_pool",
        ),
        "1e-6",
        ("villa/roi_tiny_clip_rn.npz",),
        "9b29196",
        (
            ("images are normalised by CLIP's mean and deviation always", NO_SWITCH),
            ("RoIAlign's size follows the model's resolution: 14 at 224 pixels, as published", NO_SWITCH),
            ("regions may be cut from layer4's map", "ravl_core.vlm.VLM(pooling)"),
        ),
    ),
    Parity(
        "RoIAlign (torchvision, aligned=True, sampling_ratio=0)",
        ("ravl_core.regions.roi_align",),
        (
            "test_regions.py::test_trunk_and_regions_equal_villa",
            "test_regions.py::test_roi_align_equals_its_definition",
        ),
        "1e-6; 1e-10 to loops over its definition",
        ("villa/roi_tiny_clip_rn.npz",),
    ),
    Parity(
        "attention pool (open_clip)",
        ("ravl_core.towers.attention_pool",),
        ("test_vlm.py::test_attention_pool_equals_open_clips_layer",),
        "1e-5, 1e-4 relative",
        departures=(("the first query alone is computed, as nothing else is used", NO_SWITCH),),
    ),
    Parity(
        "vision transformer (open_clip)",
        ("ravl_core.towers.PatchTower",),
        (
            "test_towers.py::test_an_image_is_embedded_as_open_clip_does_it",
            "test_towers.py::test_a_region_equals_a_loop_over_its_patches",
        ),
        "2e-6",
        departures=(("regions are means over patches, or crops: ours", "ravl_core.vlm.VLM(pooling)"),),
    ),
    Parity(
        "silhouette (scikit-learn)",
        ("ravl_core.kmedoids.silhouettes",),
        ("test_kmedoids.py::test_silhouettes_are_those_of_scikit_learn",),
        "1e-6",
        departures=(("one cluster has a silhouette of 0, where scikit-learn refuses", NO_SWITCH),),
    ),
    Parity(
        "Domino (HazyResearch/domino)",
        (
            f"{_SLICING}.domino.fit_mixture",
            f"{_SLICING}.domino.slice_order",
            f"{_SLICING}.domino.responsibilities",
            f"{_SLICING}.domino.principal_components",
        ),
        (
            "test_domino.py::test_fit_slices_and_posteriors_of_the_published_code",
            "test_domino.py::test_principal_components_of_the_published_code_up_to_sign",
            "test_domino.py::test_confusion_start_of_the_published_code",
            "test_domino.py::test_k_means_start_of_the_published_code_up_to_relabelling",
        ),
        "1e-8; slices and orders exact",
        ("domino/new_kmeans_C3.npz", "domino/old_confusion_C2.npz"),
        "5284ad8, ddc783b",
        (
            ("start: by the confusion matrix (paper) or by k-means (later code)", f"{_SLICING}.domino.domino(start)"),
            ("components: max(25, C²), where the paper has 25", f"{_SLICING}.domino.domino(n_components)"),
            ("weight of labels and predictions: the authors' scripts' 10", f"{_SLICING}.domino.domino(weight)"),
            ("fewer images than principal components give fewer axes, where the published code refuses", NO_SWITCH),
            ("an image shows its best region for the predicted class", NO_SWITCH),
        ),
    ),
    Parity(
        "George (HazyResearch/hidden-stratification)",
        (
            f"{_SLICING}.subclasses.reduce_activations",
            f"{_SLICING}.subclasses.search_clusters",
            f"{_SLICING}.subclasses.split_clusters",
            f"{_SLICING}.subclasses.merge_pieces",
            f"{_SLICING}.subclasses.find_subclasses",
        ),
        (
            "test_subclasses.py::test_reduction_of_the_published_code",
            "test_subclasses.py::test_search_of_the_published_code",
            "test_subclasses.py::test_overclustering_of_the_published_code",
            "test_subclasses.py::test_merging_of_the_published_code",
            "test_subclasses.py::test_subclasses_of_the_published_code",
        ),
        "partitions equal; silhouettes 1e-6, reduction 1e-5",
        (
            "george/hardness1_gmm.npz",
            "george/pca2_gmm_overcluster.npz",
            "george/raw_kmeans_overcluster.npz",
        ),
        "fc9c9d0",
        (
            ("PCA stands for UMAP", f"{_SLICING}.george.george(reduction)"),
            ("the subclass with the highest error rate is shown; the published code ranks none", NO_SWITCH),
            ("fitted to the val set, as nothing else is known of a model that is audited", NO_SWITCH),
        ),
    ),
    Parity(
        "George as a baseline of Domino's authors (HazyResearch/domino)",
        (f"{_SLICING}.george.george_slices",),
        ("test_george.py::test_slices_are_ranked_by_loss_and_images_by_responsibility",),
        "orders, to plain loops; no reference outputs, the published file does not run",
        departures=(
            ("the loss is the cross-entropy of probabilities, not of probabilities taken for logits", NO_SWITCH),
            ("sum or mean of losses", f"{_SLICING}.george.george_slices(score)"),
        ),
    ),
    Parity(
        "Distilling Failures (MadryLab/failure-directions)",
        (
            f"{_SLICING}.distilling_failures.fit_whitening",
            f"{_SLICING}.distilling_failures.fit_failure_direction",
        ),
        (
            "test_distilling_failures.py::test_whitening_of_the_published_code",
            "test_distilling_failures.py::test_directions_of_the_published_code",
            "test_distilling_failures.py::test_cross_validation_of_the_published_code",
            "test_distilling_failures.py::test_decisions_of_the_published_code",
            "test_distilling_failures.py::test_order_of_the_published_code",
        ),
        "1e-3, whitening 1e-5; orders exact up to ties",
        ("failure_directions/case1_norm.npz", "failure_directions/case2_nonorm.npz"),
        "d484125",
        (
            ("fitted to the images that are ranked, where the published code has two splits", NO_SWITCH),
            ("the class with the best cross-validated machine is shown; the paper ranks within classes", NO_SWITCH),
            ("a constant dimension is 0, where the published code divides by 0", NO_SWITCH),
        ),
    ),
    Parity(
        "Yang et al., detection (YuYang0901/CLIP-spurious-finetune)",
        (f"{_SLICING}.spurious_aware.feature_table", f"{_SLICING}.spurious_aware.rank_features"),
        (
            "test_spurious_aware.py::test_information_is_that_of_scikit_learn_and_gaps_are_those_of_plain_loops",
            "test_spurious_aware.py::test_the_ranking_is_that_of_the_plain_loop",
        ),
        "1e-12 to scikit-learn's mutual information; orders exact; no reference outputs",
        departures=(
            (
                "features are region clusters, not words that a detector finds; names of boxes on request",
                f"{_SLICING}.spurious_aware.spurious_aware_by_names(box_names)",
            ),
        ),
    ),
    Parity(
        "Yang et al., loss (YuYang0901/CLIP-spurious-finetune)",
        (f"{_MITIGATION}.multimodal_loss.MultimodalLoss",),
        (
            "test_multimodal_loss.py::test_golden_values_of_every_part",
            "test_multimodal_loss.py::test_every_term_is_that_of_the_loops",
        ),
        "2e-6, ten configurations",
        ("clip_spurious_finetune/caseA.npz",),
        "32e7944",
        (
            ("what the terms' names say, not what the released code computes",
             f"{_MITIGATION}.multimodal_loss.MultimodalLoss(as_released)"),
            ("without the term that logging adds", f"{_MITIGATION}.multimodal_loss.MultimodalLoss(logged)"),
            ("L_vs or L_ls, which are both published", f"{_MITIGATION}.spurious_aware.SpuriousAware(spurious_term)"),
            ("CLIP's loss is on captions", f"{_MITIGATION}.spurious_aware.SpuriousAware(as_released)"),
            ("groups are those of the discovered regions; the logit scale stays fixed", NO_SWITCH),
        ),
    ),
    Parity(
        "group DRO (kohpangwei/group_DRO)",
        (f"{_MITIGATION}.group_weights.GroupWeights",),
        (
            "test_vl_gdro.py::test_golden_group_dro",
            "test_vl_gdro.py::test_golden_erm_keeps_its_weights",
        ),
        "1e-6, thirty batches",
        ("group_dro/robust_eta0.01.npz", "group_dro/robust_eta0.1_adjC3.npz", "group_dro/erm.npz"),
        "cbbc1c5",
        (
            ("without the option to divide losses by their sum", NO_SWITCH),
            ("a group without training images keeps the weight 0, as in WILDS", NO_SWITCH),
            ("beside CLIP's loss, with a weight of 1: RaVL gives no formula", f"{_MITIGATION}.vl_gdro.VLGDRO(weight)"),
            ("batches hold every group alike, as in the authors' commands", f"{_MITIGATION}.vl_gdro.VLGDRO(balanced)"),
        ),
    ),
    Parity(
        "ERM (kohpangwei/group_DRO)",
        (f"{_MITIGATION}.vl_erm.class_losses",),
        ("test_vl_erm.py::test_golden_erm",),
        "1e-6, thirty batches",
        ("group_dro/erm.npz",),
        "cbbc1c5",
        (("beside CLIP's loss, with a weight of 1: RaVL gives no formula", f"{_MITIGATION}.vl_erm.VLERM(weight)"),),
    ),
    Parity(
        "supervised contrastive loss (HobbitLong/SupContrast)",
        ("ravl_core.losses.SupervisedContrastiveLoss",),
        (
            "test_supervised_contrastive.py::test_golden_values",
            "test_supervised_contrastive.py::test_it_equals_the_loops",
        ),
        "1e-6 relative",
        ("supcon/supcon.npz",),
        "66a8fe5",
        (
            ("without the factor τ / 0.07", NO_SWITCH),
            ("an anchor without positives leaves the mean, where it counts as 0", NO_SWITCH),
            ("L_out, or L_in, which the authors' code lacks", "ravl_core.losses.SupervisedContrastiveLoss(form)"),
            ("the deck: positives share a class", f"{_MITIGATION}.language_guided.LanguageGuided(positives)"),
        ),
    ),
    Parity(
        "GALS (spetryk/GALS)",
        (f"{_MITIGATION}.gals.GALS",),
        ("test_gals.py::test_every_step_is_the_formula_of_the_models_own_gradients",),
        "1e-3 relative, to loops over the formula; no reference outputs",
        departures=(
            ("the gradient is that of features, not of pixels; the guide is the initial model, not CLIP", NO_SWITCH),
            ("weight of the penalty: a sum over cells, not 10,000 times a mean over pixels",
             f"{_MITIGATION}.gals.GALS(weight)"),
        ),
    ),
)  # fmt: skip
