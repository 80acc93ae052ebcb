"""A large multimodal model as the teacher: LLaVA, or any other image-text-to-text model of transformers."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np

from ravl_core import checks, hub
from ravl_core._torchvision import ensure_importable
from ravl_core.language.description import Description
from ravl_core.language.prompts import Conversation, Scaffold, background_prompts, object_prompts, with_scaffold


@dataclass(frozen=True)
class LlavaTeacher:
    """Asks an image-text-to-text model for keywords, by greedy decoding; it is loaded at the first question.

    Until then neither transformers nor the weights are needed, so that answers kept in a file serve without either.

    Parameters
    ----------
    model : str
        "org/name" on the Hugging Face hub, or a local folder.
    kind : str
        What all images show, as the prompts call it.
    device : str
        "cpu" or "cuda".
    dtype : str, optional
        Of the weights, such as "bfloat16"; as they are stored if left out. LLaVA-1.5-7b takes 14 GB in 16 bits.
    max_new_tokens : int
        Of each answer; from 1.
    scaffold : optional
        Dots laid over the images; see `Scaffold`.

    Raises
    ------
    ImportError
        When it is first asked: transformers is not installed.
    ConnectionError
        When it is first asked: the model is not in the cache, and the hub does not answer or must not be asked.
    ValueError
        A number out of range; or, when asked, an answer without keywords.
    """

    model: str = "llava-hf/llava-1.5-7b-hf"
    kind: str = "bird"
    device: str = "cpu"
    dtype: str | None = None
    max_new_tokens: int = 60
    scaffold: Scaffold | None = None

    def __post_init__(self):
        checks.whole_number("max_new_tokens", self.max_new_tokens, 1)

    @property
    def name(self) -> str:
        """Model, type of numbers, length and a hash of the prompts: what decides the answers, not where they are made.

        A local folder is named without the folders above it, so that the answers can be shipped.
        """
        model = Path(self.model).name if Path(self.model).is_dir() else self.model
        prompts = hashlib.sha256(repr(self._conversations("{class}") + self._conversations(None)).encode())
        return f"{model} {self.dtype or 'as stored'} {self.max_new_tokens} {prompts.hexdigest()[:8]}"

    def __call__(self, image: np.ndarray, class_name: str | None = None) -> Description:
        """The keywords that the model gives for one image (H, W, 3) uint8; `raw` holds its four answers."""
        shown = image if self.scaffold is None else self.scaffold.prepare(image)
        raw = [self._answers(shown, conversation) for conversation in self._conversations(class_name)]
        (_, objects), (_, background) = raw
        return Description(objects, background, (*raw[0], *raw[1]))

    def _conversations(self, class_name: str | None) -> tuple[Conversation, Conversation]:
        both = object_prompts(self.kind, class_name), background_prompts(self.kind)
        return tuple(with_scaffold(conversation, self.scaffold) for conversation in both)

    def _answers(self, image: np.ndarray, conversation: Conversation) -> tuple[str, str]:
        first, second = conversation
        turns = [{"role": "user", "content": [{"type": "image"}, _text(first)]}]
        described = self._generated(image, turns)
        turns += [{"role": "assistant", "content": [_text(described)]}, {"role": "user", "content": [_text(second)]}]
        return described, self._generated(image, turns)

    def _generated(self, image: np.ndarray, turns: list[dict]) -> str:
        """What the model says next, without what was said before."""
        import torch
        from PIL import Image

        processor, model = self._loaded
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
        inputs = processor(images=Image.fromarray(image), text=prompt, return_tensors="pt")
        inputs = inputs.to(self.device, model.dtype)  # the type is that of the pixels, tokens stay integers
        with torch.inference_mode():
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens)  # (1, T)
        return processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The processor and the model in evaluation mode: from the cache or folder, else fetched, else refused."""
        try:
            return self._from_pretrained(local_files_only=True)
        except OSError as missing:
            if Path(self.model).is_dir():
                raise
            _require_hub(self.model, missing)
            return self._from_pretrained()

    def _from_pretrained(self, **options: bool) -> tuple[Any, Any]:
        ensure_importable()  # transformers imports torchvision
        try:
            import transformers
        except ImportError as error:
            raise ImportError("LlavaTeacher needs transformers: pip install 'ravl-core[llava]'") from error
        processor = transformers.AutoProcessor.from_pretrained(self.model, **options)
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            self.model, dtype=self.dtype or "auto", use_safetensors=True, **options
        )
        return processor, model.to(self.device).eval()


def _require_hub(model: str, missing: OSError) -> None:
    """Raise ConnectionError unless the hub may be asked and answers: transformers itself tries for most of a minute."""
    settings = huggingface_hub.constants
    failure = "HF_HUB_OFFLINE forbids to ask" if settings.HF_HUB_OFFLINE else hub.why_unreachable(settings.ENDPOINT)
    if failure:
        raise ConnectionError(
            f"{model}: not (or not wholly) in the cache {settings.HF_HUB_CACHE}, and not to be had from the Hugging "
            f"Face hub: {failure}. Load it once where there is a network and copy that cache (HF_HOME names another "
            "place for it), or give a local folder that holds it; a file of its answers serves without it"
        ) from missing


def _text(text: str) -> dict:
    return {"type": "text", "text": text}
