"""A CLIP model that embeds images, regions of images and texts in one space.

One pass through the trunk serves an image and all its regions (method of ViLLA and RegionCLIP): the trunk ends
at `layer3`; an image is pooled by `layer4` and CLIP's attention pool, a region by RoIAlign and then the same.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ravl_core import checks
from ravl_core.regions import roi_align

POOLINGS = ("early", "late", "crop")


class VLM(nn.Module):
    """An open_clip model with region embeddings.

    Parameters
    ----------
    clip : an open_clip model; ResNet towers offer every pooling, other towers `crop` only.
    tokenizer : open_clip's tokenizer of that model.
    name : what the model is called in tables and messages.
    configuration : what open_clip needs to build the model again: `{"model_cfg": …, "preprocess_cfg": …}`.
    pooling : how a region is embedded. "early": RoIAlign on layer3's map, then layer4 (ViLLA's published form);
        "late": RoIAlign on layer4's map, which costs a fraction; "crop": each region is cut out and encoded alone.
    """

    def __init__(self, clip: nn.Module, tokenizer, name: str, configuration: dict, pooling: str | None = None):
        super().__init__()
        self.clip, self.tokenizer, self.name, self.configuration = clip, tokenizer, name, configuration
        self.pooling = pooling or ("early" if self.has_feature_map else "crop")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}")
        if self.pooling != "crop" and not self.has_feature_map:
            raise ValueError(f"pooling={pooling!r} needs a ResNet tower; {name} has none, use pooling='crop'")
        for statistic in ("mean", "std"):
            values = torch.tensor(configuration["preprocess_cfg"][statistic]).view(3, 1, 1)
            self.register_buffer(statistic, values, persistent=False)

    @property
    def has_feature_map(self) -> bool:
        """Whether the image tower is one of CLIP's ResNets."""
        return hasattr(self.clip.visual, "layer3")

    @property
    def image_size(self) -> int:
        """Side of the square image that the model was made for, in pixels."""
        size = self.clip.visual.image_size
        return size[0] if isinstance(size, (tuple, list)) else size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    # ---- torch in, torch out: what training uses ----

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) → normalised float (N, 3, S, S) at the model's native resolution."""
        images = images.to(self.device).float() / 255
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def trunk(self, prepared: torch.Tensor) -> torch.Tensor:
        """Feature maps that an image shares with its regions: layer3's (N, D3, H, W)."""
        visual = self.clip.visual
        return visual.layer3(visual.layer2(visual.layer1(visual.stem(prepared))))

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """layer3's maps (N, D3, H, W) → unit embeddings (N, D)."""
        return self._attend(self.clip.visual.layer4(features))

    def pool_regions(self, features: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor) -> torch.Tensor:
        """layer3's maps (N, D3, H, W) and boxes (M, 4) in units of the image → unit region embeddings (M, D)."""
        if self.pooling == "late":
            return self._attend(self._align(self.clip.visual.layer4(features), boxes, image_index))
        return self.pool(self._align(features, boxes, image_index))

    def pool_both(
        self, features: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit embeddings of images (N, D) and regions (M, D) from layer3's maps at the native resolution.

        Both go through layer4 together. In training that gives them one set of BatchNorm statistics, the one that
        is used afterwards; two passes would leave running statistics that fit neither.
        """
        if self.pooling == "late":
            maps = self.clip.visual.layer4(features)
            return self._attend(maps), self._attend(self._align(maps, boxes, image_index))
        together = self.pool(torch.cat([features, self._align(features, boxes, image_index)]))
        return together[: len(features)], together[len(features) :]

    def _align(self, maps: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor) -> torch.Tensor:
        """RoIAlign to these maps' size at the native resolution, which fits the attention pool's positions."""
        stride = 32 if self.pooling == "late" else 16
        return roi_align(maps, boxes, image_index, max(self.image_size // stride, 1))

    def _attend(self, maps: torch.Tensor) -> torch.Tensor:
        return F.normalize(attention_pool(self.clip.visual.attnpool, maps), dim=-1)

    # ---- NumPy in, NumPy out: what everything else uses ----

    @torch.inference_mode()
    def encode_images(self, images: np.ndarray, batch_size: int = 128) -> np.ndarray:
        """Unit embeddings (N, D) float32 of images (N, H, W, 3) uint8.

        Raises
        ------
        ValueError
            Images of another shape or type: floats would be scaled once too often.
        """
        self.eval()
        images = _checked_images(images)
        batches = (_to_channels_first(images[i : i + batch_size]) for i in range(0, len(images), batch_size))
        return _stack([self._embed_images(self.prepare(batch)) for batch in batches], self.embedding_size)

    @torch.inference_mode()
    def encode(
        self, images: np.ndarray, boxes: np.ndarray, image_index: np.ndarray, batch_size: int = 128
    ) -> tuple[np.ndarray, np.ndarray]:
        """Unit embeddings of images and of their regions, in one pass through the trunk.

        Parameters
        ----------
        images : (N, H, W, 3) uint8
        boxes : (M, 4) in pixels, stored image by image
        image_index : (M,) non-decreasing

        Returns
        -------
        image_embeddings (N, D), region_embeddings (M, D), both float32.

        Raises
        ------
        ValueError
            Arrays of another shape, type or order, or a box that is empty or reaches outside its image.
        """
        images = _checked_images(images)
        boxes = checks.boxes("boxes", boxes, width=images.shape[2], height=images.shape[1])
        image_index = checks.sorted_image_index("image_index", image_index, len(images))
        checks.same_length(boxes=boxes, image_index=image_index)
        if self.pooling == "crop":
            crops = crop_regions(images, boxes, image_index, self.image_size)
            return self.encode_images(images, batch_size), self.encode_images(crops, batch_size)
        self.eval()
        units = torch.from_numpy(boxes_in_image_units(boxes, images.shape[1], images.shape[2])).to(self.device)
        whole, parts = [], []
        for first in range(0, len(images), batch_size):
            features = self.trunk(self.prepare(_to_channels_first(images[first : first + batch_size])))
            own = slice(*np.searchsorted(image_index, [first, first + batch_size]))
            index = torch.from_numpy(np.asarray(image_index[own]) - first).to(self.device)
            images_here, regions_here = self.pool_both(features, units[own], index)
            whole.append(images_here)
            parts.append(regions_here)
        return _stack(whole, self.embedding_size), _stack(parts, self.embedding_size)

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Unit embeddings (T, D) float32."""
        self.eval()
        tokens = self.tokenizer(list(texts)).to(self.device)
        return F.normalize(self.clip.encode_text(tokens), dim=-1).float().cpu().numpy()

    @property
    def embedding_size(self) -> int:
        """D, the size of an embedding."""
        size = getattr(self.clip.visual, "output_dim", None)  # timm's towers do not say
        return size or self.configuration["model_cfg"]["embed_dim"]

    def _embed_images(self, prepared: torch.Tensor) -> torch.Tensor:
        if self.has_feature_map:
            return self.pool(self.trunk(prepared))
        return F.normalize(self.clip.encode_image(prepared), dim=-1)


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


def boxes_in_image_units(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes in pixels → boxes with 0 and 1 at the image's edges, (M, 4) float32."""
    return (np.asarray(boxes, dtype=np.float64) / [width, height, width, height]).astype(np.float32)


def crop_regions(images: np.ndarray, boxes: np.ndarray, image_index: np.ndarray, size: int) -> np.ndarray:
    """Cut every region out and resize it: (M, size, size, 3) uint8."""
    from PIL import Image

    crops = np.empty((len(boxes), size, size, 3), dtype=np.uint8)
    for region, (box, image) in enumerate(zip(boxes, image_index, strict=True)):
        crops[region] = Image.fromarray(images[image]).resize((size, size), Image.Resampling.BILINEAR, box=tuple(box))
    return crops


def _checked_images(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images: expected uint8 of shape (N, H, W, 3), got {images.dtype} of shape {images.shape}")
    return images


def _to_channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def _stack(batches: list[torch.Tensor], width: int) -> np.ndarray:
    """Batches of embeddings → one array; (0, D) if there is none."""
    return torch.cat(batches).float().cpu().numpy() if batches else np.empty((0, width), dtype=np.float32)
