"""Slow, obvious versions of stage 1, one loop a sentence of the method, and random problems to compare them on."""

from types import SimpleNamespace

import numpy as np
from sklearn.metrics import silhouette_score


def k_medoids(distances, k, seed, published=False):
    """Labels and medoids; ``published`` compares with the first member where a medoid left its cluster, and drops
    nothing, as scikit-learn-extra does."""
    n_regions = len(distances)
    medoids = seed_medoids(distances, k, np.random.RandomState(seed))
    for _ in range(300):
        labels = [min(range(k), key=lambda c: distances[medoids[c], region]) for region in range(n_regions)]
        before = list(medoids)
        for c in range(k):
            members = [region for region in range(n_regions) if labels[region] == c]
            if not members:
                continue
            sums = {region: sum(float(distances[region, other]) for other in members) for region in members}
            best = min(members, key=lambda region: (sums[region], region))
            current = sum(float(distances[medoids[c], other]) for other in members)
            if published and medoids[c] not in members:
                current = sums[members[0]]
            if sums[best] < current:
                medoids[c] = best
        if medoids == before:
            break
    labels = [min(range(k), key=lambda c: distances[medoids[c], region]) for region in range(n_regions)]
    if not published:
        occupied = sorted(set(labels))
        labels, medoids = [occupied.index(label) for label in labels], [medoids[c] for c in occupied]
    return np.array(labels), np.array(medoids)


def seed_medoids(distances, k, random):
    n_regions, n_trials = len(distances), 2 + int(np.log(k))
    medoids = [random.randint(n_regions)]
    while len(medoids) < k:
        squares = np.array([min(distances[m, region] ** 2 for m in medoids) for region in range(n_regions)])
        draws = random.random_sample(n_trials) * squares.sum()
        running = np.cumsum(squares.astype(np.float64))
        drawn = [next((r for r in range(n_regions) if running[r] >= draw), n_regions - 1) for draw in draws]
        medoids.append(min(drawn, key=lambda region: np.minimum(squares, distances[region] ** 2).sum()))
    return medoids


def silhouette(distances, labels):
    return silhouette_score(distances, labels, metric="precomputed") if len(set(labels)) > 1 else 0.0


def score(cluster_labels, image_index, labels, image_probs, region_probs):
    """Class gaps, gap, influence, images behind it and criterion of every cluster, by loops over images."""
    n_images, n_classes = image_probs.shape
    n_clusters = max(cluster_labels, default=-1) + 1
    regions = [[r for r in range(len(image_index)) if image_index[r] == i] for i in range(n_images)]
    predictions = [int(np.argmax(image_probs[i])) for i in range(n_images)]
    gaps = np.full((n_clusters, n_classes), np.nan)
    influence, behind = np.full(n_clusters, -np.inf), np.zeros(n_clusters, dtype=int)
    for c in range(n_clusters):
        holds = [any(cluster_labels[r] == c for r in regions[i]) for i in range(n_images)]
        for label in range(n_classes):
            inside = [predictions[i] == label for i in range(n_images) if labels[i] == label and holds[i]]
            outside = [predictions[i] == label for i in range(n_images) if labels[i] == label and not holds[i]]
            if inside and outside:
                weight = 2 * min(len(inside), len(outside)) / (len(inside) + len(outside))
                gaps[c, label] = weight * (np.mean(inside) - np.mean(outside))
            hits = []
            for i in range(n_images):
                wrong = labels[i] == label and holds[i] and predictions[i] != label
                if wrong and len(regions[i]) > 1 and gaps[c, label] < 0:
                    best = max(regions[i], key=lambda r: (region_probs[r, predictions[i]], -r))
                    hits.append(cluster_labels[best] == c)
            if hits and np.mean(hits) > influence[c]:
                influence[c], behind[c] = np.mean(hits), len(hits)
    return SimpleNamespace(
        class_gaps=gaps,
        gap=np.array([np.sum(np.abs(row[~np.isnan(row)])) for row in gaps]),
        influence=influence,
        influence_images=behind,
        criterion=np.array([any(row > 0) and any(row < 0) for row in gaps], dtype=bool),
    )


def cosine_distances(embeddings):
    """1 - cosine in 0 … 1, and 0 between equal rows; summed in float64, rounded to float32 at the end."""
    rows = embeddings.astype(np.float64)
    distances = np.zeros((len(rows), len(rows)), dtype=np.float32)
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            if (one != other).any():
                distances[i, j] = min(max(1 - float(one @ other), 0), 1)
    return distances


def discover(problem, distances, candidates, threshold, seed):
    """Stage 1 from distances to ranked findings: silhouettes of all candidates, the clustering, scores, findings."""
    embeddings, image_index = problem.region_embeddings, problem.image_index
    n_distinct = len({tuple(row) for row in embeddings.tolist()})
    fits = {k: k_medoids(distances, k, seed) for k in candidates if k < n_distinct}
    silhouettes = {k: silhouette(distances.astype(np.float64), labels) for k, (labels, _) in fits.items()}
    labels, medoids = np.full(len(embeddings), -1), np.empty(0, dtype=int)
    if max(silhouettes.values(), default=0) > 1e-12:  # more than rounding
        labels, medoids = fits[max(silhouettes, key=lambda k: round(silhouettes[k], 12))]
    scores = score(labels, image_index, problem.labels, problem.image_probs, problem.region_probs)
    spurious = [c for c in range(len(medoids)) if scores.criterion[c] and scores.influence[c] >= threshold]
    findings = []
    for c in sorted(spurious, key=lambda c: -scores.gap[c]):
        members = [r for r in range(len(labels)) if labels[r] == c]
        near = {r: float((embeddings[r].astype(np.float64) * embeddings[medoids[c]]).sum()) for r in members}
        findings.append((c, attribute(problem, labels, c), sorted(members, key=lambda r: -near[r])))
    return SimpleNamespace(silhouettes=silhouettes, labels=labels, medoids=medoids, scores=scores, findings=findings)


def attribute(problem, cluster_labels, c):
    """The first class whose accuracy with the cluster is furthest above that without it."""
    differences = {}
    holds = set(problem.image_index[cluster_labels == c].tolist())
    for label in range(problem.image_probs.shape[1]):
        own = [i for i in range(len(problem.labels)) if problem.labels[i] == label]
        right = {i: np.argmax(problem.image_probs[i]) == label for i in own}
        inside, outside = [right[i] for i in own if i in holds], [right[i] for i in own if i not in holds]
        if inside and outside:
            differences[label] = np.mean(inside) - np.mean(outside)
    return max(differences, key=differences.get)


def nearest_medoid(embeddings, medoid_embeddings):
    return np.array(
        [max(range(len(medoid_embeddings)), key=lambda c: row @ medoid_embeddings[c]) for row in embeddings]
    )


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def ragged_problem(seed, n_images=50, n_classes=3, size=8):
    """Images of no to six regions; a third of the regions are equal to the last bit, and scores have ties."""
    random = np.random.default_rng(seed)
    n_regions = random.integers(0, 7, size=n_images)
    image_index = np.repeat(np.arange(n_images), n_regions)
    kinds = unit(random.normal(size=(5, size)))
    embeddings = kinds[random.integers(5, size=len(image_index))]
    noisy = random.random(len(image_index)) > 1 / 3
    embeddings[noisy] = unit(embeddings[noisy] + 0.3 * random.normal(size=(noisy.sum(), size)))
    return SimpleNamespace(
        region_embeddings=embeddings,
        image_index=image_index,
        labels=random.integers(n_classes, size=n_images),
        image_probs=probabilities_with_ties(random, n_images, n_classes),
        region_probs=probabilities_with_ties(random, len(image_index), n_classes),
    )


def lattice_problem(seed, **size):
    """A ragged problem whose cosines are multiples of a quarter: exact in float32, and tied everywhere."""
    problem, random = ragged_problem(seed, size=8, **size), np.random.default_rng(seed)
    halves, whole = np.zeros((2, len(problem.image_index), 8), dtype=np.float32)
    for row in range(len(problem.image_index)):
        halves[row, random.permutation(8)[:4]] = random.choice([-0.5, 0.5], size=4)
        whole[row, random.integers(8)] = 1
    problem.region_embeddings = np.where(random.random((len(halves), 1)) < 0.5, halves, whole)
    return problem


def probabilities_with_ties(random, n_rows, n_classes):
    parts = random.integers(1, 4, size=(n_rows, n_classes))
    return parts / parts.sum(axis=1, keepdims=True)
