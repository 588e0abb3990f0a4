"""medvit: from raw hospital images to results a clinician can open, with vision transformers.

`import medvit` stays light: no torch, no pydicom. The stages live in the package `pipelines`.
"""

from medvit import _torchvision

__version__ = "0.1.0"

_torchvision.install()
