"""Images whose channels are separate files or series with names, such as T1, T2 and FLAIR of an MR study.

A study may lack some of the channels. Channels of one image must be on the same grid, unless resampling is requested.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NoReturn, Self

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array
from pydantic import AfterValidator, Field, model_validator

from medvit.config import Config
from medvit.dicom.file import open_elements
from medvit.errors import DataError, GeometryError, MedvitError
from medvit.files.guard import decoding
from medvit.geometry import SHIFT_TOLERANCE, Affine, apart
from medvit.records import CHANNEL_SEPARATOR, FileText, Item, Refusal
from medvit.types import Image

NAME = "channels"
FAULT, UNUSED = "channels", "no_channel"
"""Codes of refusals: images whose channels cannot be combined, and images that match no channel."""
MIN_COVERED = 0.5
"""Minimum fraction of the grid of an image that a resampled channel must cover."""
PATH = "path"


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


def _group_pattern(text: str) -> str:
    if re.compile(_pattern(text)).groups != 1:
        raise ValueError(f"{text!r} has {re.compile(text).groups} groups in parentheses; expected one")
    return text


def _keyword(text: str) -> str:
    from pydicom.datadict import tag_for_keyword

    if text != PATH and tag_for_keyword(text) is None:
        raise ValueError(f"{text!r} is neither path nor the keyword of a DICOM element, such as SeriesDescription")
    return text


class ChannelsConfig(Config):
    """Combination of separate images, such as the sequences of an MR study, into images with named channels."""

    names: dict[str, Annotated[str, AfterValidator(_pattern)]] = Field(default_factory=dict)
    """Channels, as {NAME: REGEX}, such as {T1: "_t1\\\\.", FLAIR: "_flair\\\\."}. An image is the channel whose regex
    is found in its path, or in the text that `match` names, ignoring case. Required if any `channels` option is set.
    """
    match: Annotated[str, AfterValidator(_keyword)] = PATH
    """Text in which the regexes are searched for: path for the path of the file, or the keyword of a DICOM element,
    such as SeriesDescription or ProtocolName.
    """
    group: Annotated[str, AfterValidator(_group_pattern)] | None = None
    """Regex with one group that captures from the path what the channels of one image have in common, such as a case
    number. Unset: the channels of a DICOM study form one image. Other files form one image if their paths are equal
    except for the text that matches the regex of their channel.
    """
    required: tuple[str, ...] = ()
    """Channels that every image must have; an image that lacks one of them is refused. Other channels may be missing.
    """
    resample: bool = False
    """Interpolate all channels to one grid: that of the channel with a label map, else that of the first channel.
    false: images whose channels are on different grids are refused.
    """

    @model_validator(mode="after")
    def _has_channels(self) -> Self:
        if not self.names:
            raise ValueError("channels.names is empty; give the channels, such as channels.names={T1: _t1, T2: _t2}")
        for name in self.names:
            if not re.fullmatch(r"[\w. -]+", name):
                raise ValueError(f"channels.names has the name {name!r}; expected letters, digits, spaces and . _ -")
        unknown = sorted(set(self.required) - set(self.names))
        if unknown:
            raise ValueError(f"channels.required names {', '.join(unknown)}, which channels.names does not have")
        return self


@dataclass(frozen=True)
class _Found:
    """Image that is the channel `name`, its path relative to the source, and the key of the group it belongs to."""

    item: Item
    name: str
    group: tuple[str, ...]


class ChannelReader:
    """Reader of images (C, *S) whose channels are other images. Its items are made by `combined`."""

    name = NAME

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return False: files remain separate images until a config combines them."""
        return False

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """Yield nothing; `combined` makes the items."""
        yield from ()

    def texts(self, path: Path) -> Iterator[FileText]:
        """Yield the texts of the file of one channel."""
        from medvit.readers import texts

        yield from texts(path)

    def read(self, item: Item) -> Image:
        """Read all channels.

        Raises:
            GeometryError: If the channels are on different grids that may not be resampled.
            DataError: If a channel cannot be read.
        """
        from medvit.readers import read

        return joined(item, [read(part) for part in item.parts])


def combined(found: Iterable[Item | Refusal], config: ChannelsConfig | None, root: Path) -> Iterator[Item | Refusal]:
    """Combine images into images with named channels; without a config, yield every item unchanged.

    Paths are matched relative to `root`. An image that matches no channel is refused. A group is refused if two of its
    images are the same channel, if a required channel is missing, or if its images differ in kind or patient.
    """
    if config is None:
        yield from found
        return
    groups: dict[tuple[str, ...], list[_Found]] = defaultdict(list)
    for one in found:
        if isinstance(one, Refusal):
            yield one
            continue
        channel = _channel_of(one, config, root)
        if isinstance(channel, Refusal):
            yield channel
        else:
            groups[channel.group].append(channel)
    for group in groups.values():
        try:
            yield _combine(group, config)
        except DataError as error:
            files = tuple(dict.fromkeys(file for one in group for file in one.item.files))
            yield Refusal(files, FAULT, str(error))


def joined(item: Item, images: Sequence[Image]) -> Image:
    """Return one image from the images of the channels of an item, without its label map.

    Channels are in alphabetical order; the grid is that of the first channel of the item. Pixels keep their stored type
    if all channels have the same type, slope and intercept; otherwise, they become real intensities in float32.

    Raises:
        GeometryError: If the channels are on different grids, unless the item is to be resampled.
        DataError: If a channel is in color.
    """
    names = tuple(name for name, _ in item.channels)
    for name, image in zip(names, images, strict=True):
        if image.pixels.shape[0] != 1:
            raise DataError(f"the channel {name} has {image.pixels.shape[0]} channels itself; expected gray images")
    scales = {(one.pixels.dtype, one.slope, one.intercept, one.padding) for one in images}
    if len(scales) > 1:
        images = [_in_real_units(one) for one in images]
    first = images[0]
    pixels = [_on_grid(image, first, name, item) for name, image in zip(names, images, strict=True)]
    order = sorted(range(len(names)), key=names.__getitem__)
    units, offered = {one.unit for one in images}, dict.fromkeys(one.offered for one in images if one.offered)
    return replace(
        first,
        pixels=np.concatenate([pixels[number] for number in order]),
        modality=item.modality or first.modality,
        unit=first.unit if len(units) == 1 else "",
        fallback=next((one.fallback for one in images if one.fallback), ""),
        mapping=first.mapping if len({one.mapping for one in images}) == 1 else "",
        offered=", ".join(offered),
        mask=None,
        channels=tuple(names[number] for number in order),
    )


def _channel_of(item: Item, config: ChannelsConfig, root: Path) -> _Found | Refusal:
    path = item.files[0].relative_to(root if root.is_dir() else root.parent).as_posix()
    text = path if config.match == PATH else _element(item, config.match)
    matches = {name: found for name, regex in config.names.items() if (found := re.search(regex, text, re.IGNORECASE))}
    what = "its path" if config.match == PATH else f"its {config.match}"
    if not matches:
        known = ", ".join(config.names)
        return Refusal(item.files, UNUSED, f"{what} matches none of the channels {known} of channels.names")
    if len(matches) > 1:
        names = " and ".join(matches)
        return Refusal(
            item.files, FAULT, f"{what} matches the channels {names} of channels.names; make the expressions exclusive"
        )
    if item.kind == "slide" or item.index is not None:
        what = "a slide" if item.kind == "slide" else "one of several images in a file"
        return Refusal(item.files, FAULT, f"the image is {what}, which cannot be a channel of another image")
    ((name, match),) = matches.items()
    if config.group is not None:
        shared = re.search(config.group, path)
        if shared is None or not shared.group(1):
            return Refusal(
                item.files,
                FAULT,
                "its path does not match the regular expression channels.group",
            )
        return _Found(item, name, (shared.group(1),))
    if item.identity.study:
        return _Found(item, name, (item.identity.patient, item.identity.study))
    if config.match == PATH:
        return _Found(item, name, (path[: match.start()] + path[match.end() :],))
    return _Found(item, name, (Path(path).parent.as_posix(),))


def _element(item: Item, keyword: str) -> str:
    """Return the text of a DICOM element of the first file of an image; empty if the file is not DICOM."""
    if item.reader != "dicom":
        return ""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None
    try:
        with decoding("the DICOM header"):
            header = open_elements(item.files[0], stop_before_pixels=True, specific_tags=(tag, 0x00080005))
            value = header.get(keyword)
    except MedvitError:
        return ""
    return "" if value is None else str(value)


def _combine(group: Sequence[_Found], config: ChannelsConfig) -> Item:
    names = [one.name for one in group]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        _refuse(f"{names.count(twice[0])} images are the channel {twice[0]}; narrow its expression, or set group")
    lacking = [name for name in config.required if name not in names]
    if lacking:
        _refuse(f"the channel {lacking[0]} of channels.required is missing; found {', '.join(sorted(names))}")
    if len({one.item.kind for one in group}) > 1:
        _refuse("some channels are images and some are volumes; expected one kind")
    if len({(one.item.identity.patient, one.item.identity.issuer) for one in group}) > 1:
        _refuse("the channels are of several patients; set channels.group so that it separates patients")
    masks = list(dict.fromkeys(one.item.mask for one in group if one.item.mask is not None))
    if len(masks) > 1:
        _refuse(f"its channels have {len(masks)} different label maps; expected one for the image")
    _require_equal_labels(group)
    order = list(config.names)
    # The grid of the image is that of its first channel, on which the label map is.
    ordered = sorted(group, key=lambda one: (bool(masks) and one.item.mask is None, order.index(one.name)))
    first = ordered[0].item
    modalities = {one.item.modality for one in ordered}
    return Item(
        NAME,
        tuple(file for one in ordered for file in one.item.files),
        first.kind,
        modality=first.modality if len(modalities) == 1 else "",
        is_resampled=config.resample,
        identity=first.identity,
        description="; ".join(one.item.description for one in ordered if one.item.description),
        split=next((one.item.split for one in ordered if one.item.split), None),
        labels={key: text for one in reversed(ordered) for key, text in one.item.labels.items()},
        mask=masks[0] if masks else None,
        channels=tuple((one.name, replace(one.item, mask=None)) for one in ordered),
    )


def _require_equal_labels(group: Sequence[_Found]) -> None:
    for key in sorted({key for one in group for key in one.item.labels}):
        labeled = {one.name: one.item.labels[key] for one in group if key in one.item.labels}
        if len(set(labeled.values())) > 1:
            found = ", ".join(f"{text} of {name}" for name, text in sorted(labeled.items()))
            _refuse(f"they have different values of {key} ({found}); expected one for the image")


def _refuse(reason: str) -> NoReturn:
    raise DataError(f"its channels cannot be combined: {reason}")


def _in_real_units(image: Image) -> Image:
    """Return the image with real intensities in float32, without padding or non-finite values."""
    whole = image.without_gaps()
    return replace(whole, pixels=whole.intensities(), slope=1.0, intercept=0.0, padding=None)


def _on_grid(image: Image, first: Image, name: str, item: Item) -> Num[Array, "1 *s"]:
    """Return the pixels of a channel on the grid of the first channel.

    Raises:
        GeometryError: If the grids differ and the item is not to be resampled, or the channel covers too little.
    """
    shape, target = image.pixels.shape[1:], first.pixels.shape[1:]
    if image.affine is None or first.affine is None:
        if shape != target or (image.affine is None) != (first.affine is None):
            raise GeometryError(
                f"the channel {name} has {_size(shape)} pixels, the channel {item.channels[0][0]} {_size(target)}; "
                "expected equal sizes, since images without a position cannot be resampled"
            )
        return image.pixels
    if shape == target and apart(first.affine, image.affine, target) <= SHIFT_TOLERANCE:
        return image.pixels
    if not item.is_resampled:
        raise GeometryError(
            f"the channel {name} ({_size(shape)} voxels, {image.affine}) is not on the grid of the channel "
            f"{item.channels[0][0]} ({_size(target)} voxels, {first.affine}); register the images, or resample them "
            "by channels.resample=true if they are registered"
        )
    return _resampled(image, first.affine, target, name)


def _resampled(image: Image, target: Affine, shape: tuple[int, ...], name: str) -> Num[Array, "1 i j k"]:
    """Return the pixels of a channel, interpolated linearly; outside its field of view they have its lowest value."""
    from scipy.ndimage import affine_transform

    assert image.affine is not None
    step = image.affine.inverse() @ target
    lowest, voxels = float(image.pixels.min()), image.without_gaps().pixels[0].astype(np.float32)
    found = affine_transform(voxels, step.matrix, output_shape=shape, order=1, cval=np.nan)
    covered = float(np.isfinite(found).mean())
    if covered < MIN_COVERED:
        raise GeometryError(
            f"the channel {name} covers {100 * covered:.0f} % of the grid of the image; expected at least "
            f"{100 * MIN_COVERED:.0f} %: check that the images are registered"
        )
    found = np.where(np.isfinite(found), found, lowest)
    is_whole = np.issubdtype(image.pixels.dtype, np.integer)
    return (np.rint(found) if is_whole else found).astype(image.pixels.dtype)[None]


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def names_text(names: Iterable[str]) -> str:
    """Return the names of channels as one text, as in the manifest."""
    return CHANNEL_SEPARATOR.join(names)


READER = ChannelReader()
