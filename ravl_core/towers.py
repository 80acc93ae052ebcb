"""Image towers that serve an image and all its regions with one pass: a trunk for both, then what pools each.

CLIP's ResNets: the trunk ends at `layer3`; an image is pooled by `layer4` and CLIP's attention pool, a region by
RoIAlign and then the same (ViLLA, RegionCLIP). Vision transformers: the trunk ends before the last block; an image is
pooled by that block as ever, a region from its patches, each of which passes the block alone, so that what one patch
shows does not reach the others. Towers of other kinds embed regions as images of their own.
"""

import sys
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ravl_core.regions import roi_align

FLOATS_AT_A_TIME = 2**25  # of regions' own maps, 128 MB: what is larger, and not trained, is pooled in parts
TOKENS_AT_A_TIME = 2**13  # that pass a block alone; attention on GPUs takes no more than 65,535 sequences at once


class ResNetTower:
    """One of CLIP's ResNets; its features are layer3's maps (N, D3, H, W)."""

    poolings = ("early", "late")

    def __init__(self, visual: nn.Module):
        self.visual = visual

    def trunk(self, prepared: torch.Tensor) -> torch.Tensor:
        """Prepared images (N, 3, S, S) → layer3's maps."""
        visual = self.visual
        return visual.layer3(visual.layer2(visual.layer1(visual.stem(prepared))))

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Features → unit embeddings (N, D)."""
        return self._attend(self.visual.layer4(features))

    def pool_regions(
        self, features: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor, pooling: str
    ) -> torch.Tensor:
        """Features and boxes (M, 4) in units of the image → unit region embeddings (M, D)."""
        if pooling == "late":
            return self._pool_aligned(self.visual.layer4(features), boxes, image_index, 32, self._attend)
        return self._pool_aligned(features, boxes, image_index, 16, self.pool)

    def pool_both(
        self, features: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor, pooling: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit embeddings of images (N, D) and regions (M, D) from layer3's maps at the native resolution.

        Both go through layer4 together. In training that gives them one set of BatchNorm statistics, the one that
        is used afterwards; two passes would leave running statistics that fit neither.
        """
        if pooling == "late":
            maps = self.visual.layer4(features)
            return self._attend(maps), self._pool_aligned(maps, boxes, image_index, 32, self._attend)
        if len(boxes) > self._regions_at_a_time(features):
            return self.pool(features), self.pool_regions(features, boxes, image_index, pooling)
        together = self.pool(torch.cat([features, self._align(features, boxes, image_index, 16)]))
        return together[: len(features)], together[len(features) :]

    def parts(self, trained: str) -> Sequence[nn.Module]:
        """What learns: the whole "tower", the "head" (layer4 and the attention pool) or the "pool" alone."""
        visual = self.visual
        return {"tower": [visual], "head": [visual.layer4, visual.attnpool], "pool": [visual.attnpool]}[trained]

    def _pool_aligned(
        self, maps: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor, stride: int, pool: Callable
    ) -> torch.Tensor:
        """RoIAlign and what pools its result, with as many regions at a time as their maps leave room for."""
        most = self._regions_at_a_time(maps)
        parts = zip(boxes.split(most), image_index.split(most), strict=True)
        return torch.cat([pool(self._align(maps, *part, stride)) for part in parts])

    def _regions_at_a_time(self, maps: torch.Tensor) -> int:
        """A region's own map is as large as an image's. BatchNorm in training needs all regions, gradients do, too."""
        if torch.is_grad_enabled() or self.visual.layer4.training:
            return sys.maxsize
        return max(FLOATS_AT_A_TIME // maps.shape[1:].numel(), 1)

    def _align(self, maps: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor, stride: int) -> torch.Tensor:
        """RoIAlign to these maps' size at the native resolution, which fits the attention pool's positions."""
        return roi_align(maps, boxes, image_index, max(side_of(self.visual) // stride, 1))

    def _attend(self, maps: torch.Tensor) -> torch.Tensor:
        return F.normalize(attention_pool(self.visual.attnpool, maps), dim=-1)


class PatchTower:
    """open_clip's vision transformer; its features are the tokens before the last block, (N, 1 + P, W).

    The first token is the class's, the others are the P patches, row by row.
    """

    poolings = ("patches",)

    def __init__(self, visual: nn.Module):
        self.visual = visual

    def trunk(self, prepared: torch.Tensor) -> torch.Tensor:
        """Prepared images (N, 3, S, S) → tokens. No patch is dropped, in training neither: regions need them all."""
        visual = self.visual
        patches = visual.conv1(prepared).flatten(2).transpose(1, 2)  # (N, P, W)
        first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = visual.ln_pre(torch.cat([first, patches], dim=1) + visual.positional_embedding.to(patches.dtype))
        for block in visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
        return tokens

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Features → unit embeddings (N, D)."""
        tokens = self._last_block(features)
        if self.visual.pool_type == "tok":
            return self._project(self.visual.ln_post(tokens[:, 0]))
        return self._project(self._normed_mean(tokens[:, 1:], lambda patches: patches.mean(dim=1)))

    def pool_regions(
        self, features: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor, pooling: str = "patches"
    ) -> torch.Tensor:
        """Features and boxes (M, 4) in units of the image → unit region embeddings (M, D).

        A patch's attention to itself alone is 1, so that the block as a sequence of one token is its value path. A
        region is the mean over its patches, each by the area that it shares with the box.
        """
        patches = features[:, 1:]  # (N, P, W)
        tokens = patches.reshape(-1, 1, patches.shape[-1]).split(TOKENS_AT_A_TIME)
        alone = torch.cat([self._last_block(part) for part in tokens]).view_as(patches)
        place, most = _places_in_images(image_index, len(patches))
        shares = patch_shares(boxes, *self.visual.grid_size)  # (M, P)
        weights = shares.new_zeros(len(patches), most, patches.shape[1])  # (N, R, P); rows beyond an image's regions: 0
        weights[image_index, place] = shares
        weights = weights.to(alone.dtype)
        return self._project(self._normed_mean(alone, lambda patches: (weights @ patches)[image_index, place]))

    def pool_both(
        self, features: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor, pooling: str = "patches"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit embeddings of images (N, D) and regions (M, D)."""
        return self.pool(features), self.pool_regions(features, boxes, image_index)

    def parts(self, trained: str) -> Sequence[nn.Module]:
        """What learns: the whole "tower", the "head" (last block, norm, projection) or the "pool" (the last two)."""
        visual = self.visual
        pool = [visual.ln_post, nn.ParameterList([visual.proj])]
        return {"tower": [visual], "head": [visual.transformer.resblocks[-1], *pool], "pool": pool}[trained]

    def _last_block(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.visual.transformer.resblocks[-1](tokens)

    def _normed_mean(self, tokens: torch.Tensor, mean) -> torch.Tensor:
        """Means over tokens, normed where the model norms: each token, or what comes out."""
        norm = self.visual.ln_post
        return norm(mean(tokens)) if self.visual.final_ln_after_pool else mean(norm(tokens))

    def _project(self, pooled: torch.Tensor) -> torch.Tensor:
        return F.normalize(pooled @ self.visual.proj, dim=-1)


def tower_of(visual: nn.Module) -> ResNetTower | PatchTower | None:
    """The way to pool regions from a tower's features, or None where there is none: then they are cut out."""
    if hasattr(visual, "layer3"):
        return ResNetTower(visual)
    reads_tokens = getattr(visual, "pool_type", None) in ("tok", "avg") and visual.attn_pool is None
    return PatchTower(visual) if reads_tokens and visual.transformer.batch_first else None


def side_of(visual: nn.Module) -> int:
    """Side of the square image that a tower was made for, in pixels."""
    size = visual.image_size
    return size[0] if isinstance(size, tuple | list) else size


def _places_in_images(image_index: torch.Tensor, n_images: int) -> tuple[torch.Tensor, int]:
    """Which of its image's regions each one is (M,), in any order of the images; and the most that an image has."""
    counted = F.one_hot(image_index, n_images).cumsum(dim=0)  # (M, N)
    place = counted.gather(1, image_index[:, None])[:, 0] - 1
    return place, int(counted[-1].max()) if len(counted) else 0


def patch_shares(boxes: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """How much of each box (M, 4), in units of the image, lies in each patch: (M, rows * columns), sums of 1."""
    along_x = _overlaps(boxes[:, 0], boxes[:, 2], columns)
    along_y = _overlaps(boxes[:, 1], boxes[:, 3], rows)
    areas = (along_y[:, :, None] * along_x[:, None]).flatten(1)
    return areas / areas.sum(dim=1, keepdim=True)


def _overlaps(start: torch.Tensor, end: torch.Tensor, n_cells: int) -> torch.Tensor:
    """Lengths that the intervals (M,) share with equal cells of 0 … 1, in cells: (M, n_cells)."""
    edges = torch.arange(n_cells, device=start.device, dtype=start.dtype)
    return (torch.minimum(end[:, None] * n_cells, edges + 1) - torch.maximum(start[:, None] * n_cells, edges)).clamp(0)


def attention_pool(pool: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """CLIP's attention pool, for the one query whose output is used: maps (N, D4, H, W) → (N, D).

    The published layer projects all H*W + 1 tokens to keys and values and computes as many queries, then keeps the
    first, which belongs to the mean token. With one query the projections can be moved to its side of the products:
    q·(W x) = (Wᵀ q)·x, and Σ a W x = W Σ a x. The keys' bias shifts all scores alike and drops out of the softmax.
    """
    tokens = maps.flatten(2).transpose(1, 2)  # (N, T, D4), T = H*W
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + pool.positional_embedding
    per_head = (pool.num_heads, -1, tokens.shape[-1])  # (heads, D4/heads, D4)
    query = pool.q_proj(tokens[:, 0]).unflatten(-1, per_head[:2])  # (N, heads, D4/heads)
    query = torch.einsum("nhd,hde->nhe", query, pool.k_proj.weight.view(per_head)) / query.shape[-1] ** 0.5
    attention = torch.softmax(query @ tokens.transpose(1, 2), dim=-1)  # (N, heads, T + 1)
    mixed = torch.einsum("nhe,hde->nhd", attention @ tokens, pool.v_proj.weight.view(per_head))
    return pool.c_proj(mixed.flatten(1) + pool.v_proj.bias)
