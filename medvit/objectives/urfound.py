"""Knowledge-guided masked modeling (UrFound, Yu et al., MICCAI 2024): pixels, and words that experts said of them.

A masked autoencoder rebuilds the hidden patches at twice the resolution. The mean of what the encoder makes of the
visible ones is added to every token of a text, in which words are hidden; only where the image shows what the text says
not, can they be named. So a single encoder learns of photographs and of B-scans what their labels mean.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.config import Amount, Count, Share
from medvit.errors import DataError
from medvit.objectives.mae import Mae, MaeConfig, masked_loss
from medvit.registry import register
from medvit.types import Losses, Views

PAD, MASK, NUM_SPECIAL = 0, 1, 2
"""Special tokens."""
PATIENCE = 20
"""Batches without any word, from the first on, after which there is nothing to learn from."""
_WORD = re.compile(r"\w+")


@register
class UrFoundConfig(MaeConfig):
    """Rebuilds hidden patches at a higher resolution, and hidden words of labels or reports from the image."""

    RENAMED: ClassVar[Mapping[str, str]] = {"told": "text_keys"}

    name: Literal["urfound"] = "urfound"  # type: ignore[assignment]
    normalize_targets: bool = False
    """Patches are rebuilt after subtracting their own mean and dividing by their own deviation."""
    decoder_width: Count = 768
    """Width of the decoder."""
    decoder_depth: Count = 4
    """Blocks of the decoder."""
    decoder_heads: Count = 6
    """Attention heads of the decoder."""
    target_scale: Count = 2
    """How many times finer than what the encoder sees the views are, and so what is rebuilt."""
    text_keys: tuple[str, ...] = ()
    """Label keys that the text holds, besides modality, laterality and view. Empty: all."""
    text_weight: Amount = 1.0
    """Factor of the loss of words."""
    text_mask: Share = Field(0.5, gt=0.0)
    """Chance of each word to be hidden."""
    max_words: Count = 100
    """Words of a text that are read."""
    vocabulary: Count = 8192
    """Places that words are put into by their hash; two that share one are one word."""
    text_width: Count = 384
    """Width of the encoder of words."""
    text_depth: Count = 6
    """Blocks of the encoder of words."""
    text_heads: Count = 6
    """Attention heads of the encoder of words."""

    def build(self, backbone: Backbone) -> UrFound:
        """Return the objective with a fresh decoder and a fresh encoder of words."""
        return UrFound(backbone, self)


@dataclass(frozen=True)
class Words:
    """Texts (B, W) as places in the vocabulary, `PAD` after the end, and which words are hidden."""

    ids: Int[Tensor, "b w"]
    hidden: Bool[Tensor, "b w"]

    @property
    def read(self) -> Int[Tensor, "b w"]:
        """What the encoder of words sees."""
        return self.ids.masked_fill(self.hidden, MASK)


class UrFound(Mae):
    """The encoder to pass on; decoder and encoder of words are thrown away."""

    config: UrFoundConfig

    def __init__(self, backbone: Backbone, config: UrFoundConfig) -> None:
        self.scale = config.target_scale
        super().__init__(backbone, config)
        width, size = config.text_width, config.vocabulary + NUM_SPECIAL
        self.project = nn.Linear(backbone.width, width)
        self.words = nn.Embedding(size, width, padding_idx=PAD)
        self.places = nn.Parameter(torch.zeros(1, config.max_words, width))
        layer = nn.TransformerEncoderLayer(
            width,
            config.text_heads,
            4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.reader = nn.TransformerEncoder(layer, config.text_depth, enable_nested_tensor=False)
        self.name_word = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))
        self.num_wordless = 0
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.places, std=0.02)

    @property
    def target_patch(self) -> tuple[int, ...]:
        """Pixels of the views that one patch of the encoder stands for."""
        return tuple(self.scale * side for side in self.backbone.patch_size)

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the losses of pixels and of words of the first view, in float32.

        Raises:
            DataError: If the first batches hold no word at all.
        """
        pixels = views.crops[0]
        seen = self.see(self.coarse(pixels))
        predicted = self.decode(seen.encoded, seen.masking, seen.grid).float()
        image = masked_loss(predicted, self.target(pixels), seen.masking.mask)
        latent = seen.encoded[:, self.backbone.num_prefix_tokens :].mean(dim=1)
        words = self.hide(self.texts(views.said, len(latent)).to(latent.device))
        self._check_words(words)
        return Losses({"reconstruction": image, "words": self.config.text_weight * self.word_loss(latent, words)})

    def reconstruct(self, pixels: Tensor) -> tuple[Tensor, Tensor, object]:  # type: ignore[override]
        """Return the prediction for every patch, its target, and which patches were hidden."""
        seen = self.see(self.coarse(pixels))
        return self.decode(seen.encoded, seen.masking, seen.grid), self.target(pixels), seen.masking

    def coarse(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *t"]:
        """Return the crops that the encoder sees."""
        if self.scale == 1:
            return pixels
        mode = "bicubic" if pixels.ndim == 4 else "trilinear"
        size = [side // self.scale for side in pixels.shape[2:]]
        return F.interpolate(pixels, size=size, mode=mode, antialias=pixels.ndim == 4)

    def texts(self, said: Sequence[Mapping[str, str]], num_images: int) -> Int[Tensor, "b w"]:
        """Return the words of what is said of each image, as places in the vocabulary.

        Nothing where nothing is said.
        """
        told = [self._words_of(one) for one in said] or [[] for _ in range(num_images)]
        length = max(1, *(len(words) for words in told))
        return torch.tensor([words + [PAD] * (length - len(words)) for words in told])

    def hide(self, ids: Int[Tensor, "b w"]) -> Words:
        """Return the words with a random part hidden, at least one in each text that has any."""
        noise = torch.rand(ids.shape, device=ids.device).masked_fill(ids == PAD, 2.0)
        lowest = noise == noise.min(dim=1, keepdim=True).values
        return Words(ids, ((noise < self.config.text_mask) | lowest) & (ids != PAD))

    def word_loss(self, latent: Float[Tensor, "b d"], words: Words) -> Float[Tensor, ""]:
        """Cross entropy of the hidden words, given the others and the image; 0 where none is hidden."""
        tokens = self.words(words.read) + self.places[:, : words.ids.shape[1]] + self.project(latent)[:, None]
        is_empty = words.ids == PAD
        read = self.reader(tokens, src_key_padding_mask=is_empty & ~is_empty.all(dim=1, keepdim=True))
        logits = self.name_word(read).float()
        if not words.hidden.any():
            return logits.sum() * 0.0
        return F.cross_entropy(logits[words.hidden], words.ids[words.hidden])

    def _words_of(self, said: Mapping[str, str]) -> list[int]:
        known = ("modality", "laterality", "view")
        keys = [key for key in said if key in known or not self.config.text_keys or key in self.config.text_keys]
        text = " ".join(f"{key} {said[key]}" for key in keys).casefold()
        found = [NUM_SPECIAL + zlib.crc32(word.encode()) % self.config.vocabulary for word in _WORD.findall(text)]
        return found[: self.config.max_words]

    def _check_words(self, words: Words) -> None:
        if words.hidden.any():
            self.num_wordless = -1
        elif self.num_wordless >= 0:
            self.num_wordless += 1
        if self.num_wordless >= PATIENCE:
            raise DataError(
                f"none of the images of the first {PATIENCE} batches has a label or a text; objective=urfound learns "
                "from them: ingest labels (labeling.table=CSV, labeling.from_folders=folder), or choose objective=mae"
            )
