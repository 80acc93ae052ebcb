"""A CLIP model that embeds images, regions of images and texts in one space.

One pass through the trunk serves an image and all its regions, where the tower allows it (see `towers`).
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ravl_core import checks
from ravl_core.towers import PatchTower, ResNetTower, attention_pool, side_of, tower_of

PRECISIONS = ("float32", "bfloat16")
POOLINGS = (*ResNetTower.poolings, *PatchTower.poolings, "crop")
__all__ = ["POOLINGS", "VLM", "attention_pool", "boxes_in_image_units", "crop_regions"]


class VLM(nn.Module):
    """An open_clip model with region embeddings.

    Parameters
    ----------
    clip : an open_clip model. ResNet towers pool regions "early" or "late", vision transformers by "patches"; every
        tower offers "crop", which is all that others have.
    tokenizer : open_clip's tokenizer of that model.
    name : what the model is called in tables and messages.
    configuration : what open_clip needs to build the model again: `{"model_cfg": …, "preprocess_cfg": …}`.
    pooling : how a region is embedded. "early": RoIAlign on layer3's map, then layer4 (ViLLA's published form);
        "late": RoIAlign on layer4's map, which costs a fraction; "patches": the mean over a vision transformer's
        patches in the region, each by the value path of the last block; "crop": each region is cut out and encoded
        alone, which is slow and goes with every tower. None: the first of these that the tower has.
    """

    def __init__(self, clip: nn.Module, tokenizer, name: str, configuration: dict, pooling: str | None = None):
        super().__init__()
        self.clip, self.tokenizer, self.name, self.configuration = clip, tokenizer, name, configuration
        offered = (*(self.tower.poolings if self.tower else ()), "crop")
        self.pooling = pooling or offered[0]
        if self.pooling not in POOLINGS:
            hint = checks.nearest(pooling, POOLINGS)
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}{hint}")
        if self.pooling not in offered:
            raise ValueError(f"pooling: the image tower of {name} offers {' and '.join(offered)}, got {pooling!r}")
        for statistic in ("mean", "std"):
            values = torch.tensor(configuration["preprocess_cfg"][statistic]).view(3, 1, 1)
            self.register_buffer(statistic, values, persistent=False)

    @property
    def tower(self) -> ResNetTower | PatchTower | None:
        """The image tower as one pass for images and regions, or None where it offers no such pass."""
        return tower_of(self.clip.visual)

    @property
    def has_feature_map(self) -> bool:
        """Whether the image tower is one of CLIP's ResNets."""
        return hasattr(self.clip.visual, "layer3")

    @property
    def image_size(self) -> int:
        """Side of the square image that the model was made for, in pixels."""
        return side_of(self.clip.visual)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    # ---- torch in, torch out: what training uses ----

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) → normalised float (N, 3, S, S) at the model's native resolution."""
        images = images.to(self.device, non_blocking=True).float() / 255  # over it goes as bytes
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def trunk(self, prepared: torch.Tensor) -> torch.Tensor:
        """Features that an image shares with its regions: layer3's maps (N, D3, H, W), or tokens (N, 1 + P, W)."""
        return self.tower.trunk(prepared)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, …) of the trunk → unit embeddings (N, D)."""
        return self.tower.pool(features)

    def pool_regions(self, features: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor) -> torch.Tensor:
        """Features (N, …) and boxes (M, 4) in units of the image → unit region embeddings (M, D)."""
        return self.tower.pool_regions(features, boxes, image_index, self.pooling)

    def pool_both(
        self, features: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit embeddings of images (N, D) and regions (M, D) from features at the native resolution."""
        return self.tower.pool_both(features, boxes, image_index, self.pooling)

    # ---- NumPy in, NumPy out: what everything else uses ----

    @torch.inference_mode()
    def encode_images(self, images: np.ndarray, batch_size: int = 128, precision: str = "float32") -> np.ndarray:
        """Unit embeddings (N, D) float32 of images (N, H, W, 3) uint8; `precision` as in `encode`.

        Raises
        ------
        ValueError
            Images of another shape or type: floats would be scaled once too often. An unknown precision, or no batch.
        """
        images, batch_size = checks.images("images", images), checks.whole_number("batch_size", batch_size, 1)
        batches = (images[first : first + batch_size] for first in range(0, len(images), batch_size))
        return self._encode_batches(batches, precision)

    @torch.inference_mode()
    def encode(
        self,
        images: np.ndarray,
        boxes: np.ndarray,
        image_index: np.ndarray,
        batch_size: int = 128,
        precision: str = "float32",
    ) -> tuple[np.ndarray, np.ndarray]:
        """Unit embeddings of images and of their regions, in one pass through the trunk.

        Parameters
        ----------
        images : (N, H, W, 3) uint8
        boxes : (M, 4) in pixels, stored image by image
        image_index : (M,) non-decreasing
        batch_size : images that are on the device at a time
        precision : of the products: "float32", or "bfloat16", which moves embeddings by 0.05 to 0.1 (the miniature's).
            It is meant for GPUs; where a processor has no matrix units it is slower. See `benchmarks.encoding`.

        Returns
        -------
        image_embeddings (N, D), region_embeddings (M, D), both float32.

        Raises
        ------
        ValueError
            Arrays of another shape, type or order, a box that is empty or reaches outside its image, an unknown
            precision, or no batch.
        """
        images = checks.images("images", images)
        boxes = checks.boxes("boxes", boxes, width=images.shape[2], height=images.shape[1])
        image_index = checks.sorted_image_index("image_index", image_index, len(images))
        checks.same_length(boxes=boxes, image_index=image_index)
        checks.whole_number("batch_size", batch_size, 1)
        if self.pooling == "crop":
            owned = (slice(first, first + batch_size) for first in range(0, len(boxes), batch_size))
            crops = (crop_regions(images, boxes[own], image_index[own], self.image_size) for own in owned)
            return self.encode_images(images, batch_size, precision), self._encode_batches(crops, precision)
        units = torch.from_numpy(boxes_in_image_units(boxes, images.shape[1], images.shape[2])).to(self.device)
        whole, parts = [], []
        with self._evaluating(precision):
            for first in range(0, len(images), batch_size):
                features = self.trunk(self.prepare(self._sendable(images[first : first + batch_size])))
                own = slice(*np.searchsorted(image_index, [first, first + batch_size]))
                index = torch.from_numpy(np.asarray(image_index[own]) - first).to(self.device)
                images_here, regions_here = self.pool_both(features, units[own], index)
                whole.append(_to_host(images_here))
                parts.append(_to_host(regions_here))
        return self._stack(whole, precision), self._stack(parts, precision)

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

    def _encode_batches(self, batches: Iterable[np.ndarray], precision: str) -> np.ndarray:
        with self._evaluating(precision):
            found = [_to_host(self._embed_images(self.prepare(self._sendable(batch)))) for batch in batches]
        return self._stack(found, precision)

    def _evaluating(self, precision: str) -> torch.autocast:
        """Switch to evaluation mode; the context in which products are of that precision."""
        checks.choice("precision", precision, PRECISIONS)
        self.eval()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def _sendable(self, images: np.ndarray) -> torch.Tensor:
        """(B, H, W, 3) → (B, 3, H, W); for a GPU in memory that it fetches from while this process works on."""
        images = _to_channels_first(images)
        return images.pin_memory() if self.device.type == "cuda" else images

    def _stack(self, batches: list[torch.Tensor], precision: str) -> np.ndarray:
        """Batches of embeddings on the host → one array; (0, D) if there is none."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # they may still be on their way
        if not batches:
            return np.empty((0, self.embedding_size), dtype=np.float32)
        embeddings = torch.cat(batches)
        return (embeddings if precision == "float32" else F.normalize(embeddings, dim=-1)).numpy()

    def _embed_images(self, prepared: torch.Tensor) -> torch.Tensor:
        if self.tower is not None:
            return self.pool(self.trunk(prepared))
        return F.normalize(self.clip.encode_image(prepared), dim=-1)


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


def _to_channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(checks.own(images)).permute(0, 3, 1, 2)


def _to_host(embeddings: torch.Tensor) -> torch.Tensor:
    """As float32, off the device as they come; from a GPU they are there once it has been waited for."""
    return embeddings.float().to("cpu", non_blocking=embeddings.is_cuda)
