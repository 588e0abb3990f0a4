"""Make torchvision importable with a torch build that its compiled operators do not match.

The package index offers a single torchvision build, compiled for CUDA. With a CPU-only torch, its extension cannot be
loaded: `import torchvision` fails with "operator torchvision::nms does not exist", and so do timm, lightning and
torchmetrics. medvit calls none of these operators, so declaring their names is enough. If the extension loads, nothing
is declared.

`install` is called by `import medvit`. It is also registered as the entry point `torch.backends` of this package
(pyproject.toml), which `import torch` calls in every program of the environment, so `import timm` works without
medvit. A `.pth` file is not used, because its code would run at every start of Python.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[object] = []


class _BeforeTorchvision(MetaPathFinder):
    """Import finder that declares the operators when torchvision or a submodule is first imported.

    It never finds a module itself. It also acts on submodules of torchvision: if a program imports torchvision first,
    torchvision imports torch, and torch installs this finder while the import of torchvision is already running.
    """

    has_acted = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not self.has_acted and name.partition(".")[0] == "torchvision":
            self.has_acted = True
            _declare_missing_operators()
        return None


def install() -> None:
    """Arrange for the operators to be declared when torchvision is imported, without importing anything now."""
    if not any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


def _declare_missing_operators() -> None:
    if "torchvision.ops" in sys.modules or importlib.util.find_spec("torch") is None or _extension_loads():
        return
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        library.define(schema)
    _declared.append(library)  # the declaration lives as long as the library object


def _extension_loads() -> bool:
    import torch

    spec = PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for extension in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
        except (OSError, RuntimeError):
            return False
    return True
