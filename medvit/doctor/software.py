"""Checks of Python, of the packages that medvit uses, and of the device."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterator

from medvit import __version__
from medvit.doctor import SystemCheck
from medvit.hardware import half_precision, memory_bytes, resolve_device

PACKAGES = (
    "torch",
    "torchvision",
    "monai",
    "timm",
    "peft",
    "lightning",
    "mlflow",
    "pydicom",
    "highdicom",
    "SimpleITK",
    "imagecodecs",
)
"""Packages without which stages fail."""
GIB = 2**30
MIN_MEMORY_GIB = 8.0
"""Memory below which training of a small model on volumes runs out of memory."""
SIZE = 64


def check_packages() -> Iterator[SystemCheck]:
    """Yield the versions, and a check for each package that cannot be imported."""
    yield SystemCheck(
        "medvit", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"
    )
    versions = []
    for name in PACKAGES:
        try:
            importlib.import_module(name)
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except Exception as error:  # a package may fail in any way while it is imported
            advice = f"install medvit again in this environment: {sys.executable} -m pip install --force-reinstall ..."
            yield SystemCheck("packages", "failed", f"{name} cannot be imported ({type(error).__name__})", advice)
    if len(versions) == len(PACKAGES):
        yield SystemCheck("packages", "ok", ", ".join(versions))


def check_device() -> SystemCheck:
    """Check that the device multiplies matrices correctly; report its memory and precision."""
    import torch

    device = resolve_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (platform.processor() or "CPU")
    memory_gib = memory_bytes(device) / GIB
    dtype = half_precision(device)
    precision = str(dtype).removeprefix("torch.") if dtype else "float32"
    found = f"{device.type}: {name}, {memory_gib:.1f} GiB, {torch.get_num_threads()} threads, trains in {precision}"
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-8, 9, (2, SIZE, SIZE), generator=generator).float()
    product = (factors[0].to(device) @ factors[1].to(device)).cpu()
    if not torch.equal(product, (factors[0].double() @ factors[1].double()).float()):
        return SystemCheck("device", "failed", f"{found}; a product of two matrices is wrong", "check the driver")
    if memory_gib < MIN_MEMORY_GIB:
        return SystemCheck("device", "warning", found, "use small crops and batches; `medvit plan` measures the memory")
    if device.type == "cpu" and torch.version.cuda is None and torch.version.hip is None:
        return SystemCheck("device", "ok", f"{found}; this torch does not support GPUs")
    return SystemCheck("device", "ok", found)
