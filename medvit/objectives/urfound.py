"""Knowledge-guided masked modeling (UrFound, Yu et al., MICCAI 2024): masked pixels, and masked words of label text.

A masked autoencoder reconstructs the hidden patches at twice the resolution. The mean token of the visible patches is
added to every token of a text in which words are masked. These words can be predicted only from the image. A single
encoder thus learns the meaning of labels, for photographs and for B-scans.
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
"""Indices of padding and of the mask token in the vocabulary, and number of special tokens."""
PATIENCE = 20
"""Training stops with an error if none of this many first batches contains a word."""
_WORD = re.compile(r"\w+")


@register
class UrFoundConfig(MaeConfig):
    """Options of UrFound: reconstruction of hidden patches at a higher resolution, and prediction of hidden words."""

    RENAMED: ClassVar[Mapping[str, str]] = {"told": "text_keys"}
    TAKES_CHANNEL_TOKENS: ClassVar[bool] = False

    name: Literal["urfound"] = "urfound"  # type: ignore[assignment]
    normalize_targets: bool = False
    """Normalize each target patch by its own mean and standard deviation."""
    decoder_width: Count = 768
    """Width of the decoder."""
    decoder_depth: Count = 4
    """Number of blocks of the decoder."""
    decoder_heads: Count = 6
    """Attention heads of the decoder."""
    target_scale: Count = 2
    """Factor by which the resolution of the reconstruction exceeds that of the encoder's input."""
    text_keys: tuple[str, ...] = ()
    """Labels to include in the text, in addition to modality, laterality and view. Empty: all labels."""
    text_weight: Amount = 1.0
    """Weight of the loss on masked words."""
    text_mask: Share = Field(0.5, gt=0.0)
    """Probability of masking each word of the text."""
    max_words: Count = 100
    """Maximum number of words of the text; the rest is truncated."""
    vocabulary: Count = 8192
    """Size of the vocabulary. Each word is hashed to one of this many tokens, and words with the same hash are treated
    as one.
    """
    text_width: Count = 384
    """Width of the text encoder."""
    text_depth: Count = 6
    """Number of blocks of the text encoder."""
    text_heads: Count = 6
    """Attention heads of the text encoder."""

    def build(self, backbone: Backbone) -> UrFound:
        """Return the objective with a new decoder and a new text encoder."""
        return UrFound(backbone, self)


@dataclass(frozen=True)
class Words:
    """Texts (B, W) as vocabulary indices, with `PAD` after the end, and the mask of hidden words."""

    ids: Int[Tensor, "b w"]
    hidden: Bool[Tensor, "b w"]

    @property
    def read(self) -> Int[Tensor, "b w"]:
        """Return the tokens for the text encoder, in which hidden words are replaced by the mask token."""
        return self.ids.masked_fill(self.hidden, MASK)


class UrFound(Mae):
    """Encoder, which is saved after training; decoder and text encoder are discarded."""

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
        """Size, in pixels of the views, of the region to reconstruct for each patch of the encoder."""
        return tuple(self.scale * side for side in self.backbone.patch_size)

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the losses of pixels and words for the first view, in float32.

        Raises:
            DataError: If no image of the first batches has any text.
        """
        pixels = views.crops[0]
        seen = self.see(self.coarse(pixels))
        predicted = self.decode(seen.encoded, seen.masking, seen.grid).float()
        image = masked_loss(predicted, self.target(pixels), seen.masking.mask)
        latent = seen.encoded[:, self.backbone.num_prefix_tokens :].mean(dim=1)
        words = self.hide(self.texts(views.descriptions, len(latent)).to(latent.device))
        self._check_words(words)
        return Losses({"reconstruction": image, "words": self.config.text_weight * self.word_loss(latent, words)})

    def reconstruct(self, pixels: Tensor) -> tuple[Tensor, Tensor, object]:  # type: ignore[override]
        """Return the prediction for every patch, its target, and the mask of hidden patches."""
        seen = self.see(self.coarse(pixels))
        return self.decode(seen.encoded, seen.masking, seen.grid), self.target(pixels), seen.masking

    def coarse(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *t"]:
        """Return the crops at the resolution that the encoder sees."""
        if self.scale == 1:
            return pixels
        mode = "bicubic" if pixels.ndim == 4 else "trilinear"
        size = [side // self.scale for side in pixels.shape[2:]]
        return F.interpolate(pixels, size=size, mode=mode, antialias=pixels.ndim == 4)

    def texts(self, descriptions: Sequence[Mapping[str, str]], num_images: int) -> Int[Tensor, "b w"]:
        """Return the words that describe each image, as vocabulary indices.

        Rows of images without a description are empty.
        """
        words_of_images = [self._words_of(one) for one in descriptions] or [[] for _ in range(num_images)]
        length = max(1, *(len(words) for words in words_of_images))
        return torch.tensor([words + [PAD] * (length - len(words)) for words in words_of_images])

    def hide(self, ids: Int[Tensor, "b w"]) -> Words:
        """Return the words with a random subset hidden, at least one in each non-empty text."""
        noise = torch.rand(ids.shape, device=ids.device).masked_fill(ids == PAD, 2.0)
        lowest = noise == noise.min(dim=1, keepdim=True).values
        return Words(ids, ((noise < self.config.text_mask) | lowest) & (ids != PAD))

    def word_loss(self, latent: Float[Tensor, "b d"], words: Words) -> Float[Tensor, ""]:
        """Return the cross-entropy of the hidden words, given the other words and the image; 0 if no word is hidden."""
        tokens = self.words(words.read) + self.places[:, : words.ids.shape[1]] + self.project(latent)[:, None]
        is_empty = words.ids == PAD
        read = self.reader(tokens, src_key_padding_mask=is_empty & ~is_empty.all(dim=1, keepdim=True))
        logits = self.name_word(read).float()
        if not words.hidden.any():
            return logits.sum() * 0.0
        return F.cross_entropy(logits[words.hidden], words.ids[words.hidden])

    def _words_of(self, description: Mapping[str, str]) -> list[int]:
        known = ("modality", "laterality", "view")
        keys = [key for key in description if key in known or not self.config.text_keys or key in self.config.text_keys]
        text = " ".join(f"{key} {description[key]}" for key in keys).casefold()
        found = [NUM_SPECIAL + zlib.crc32(word.encode()) % self.config.vocabulary for word in _WORD.findall(text)]
        return found[: self.config.max_words]

    def _check_words(self, words: Words) -> None:
        if words.hidden.any():
            self.num_wordless = -1
        elif self.num_wordless >= 0:
            self.num_wordless += 1
        if self.num_wordless >= PATIENCE:
            raise DataError(
                f"none of the images of the first {PATIENCE} batches has a label or a text; objective=urfound requires "
                "labels or texts: ingest labels (labeling.table=CSV, labeling.from_folders=folder), or choose "
                "objective=mae"
            )
