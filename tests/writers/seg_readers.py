"""Other readers of DICOM segmentations: the loader of the OHIF viewer, dcmqi, highdicom and pydicom."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

PACKAGES = ("@cornerstonejs/adapters@5.14.0", "dcmjs@0.52.0")
LOADER = """
import fs from 'fs';
import dcmjs from 'dcmjs';
import { decodeSegFramesFromMultiframe } from '@cornerstonejs/adapters/cornerstone3D/encodePixelData';
for (const path of process.argv.slice(2)) {
    const bytes = fs.readFileSync(path);
    const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
    const message = dcmjs.data.DicomMessage.readFile(buffer);
    const dataset = dcmjs.data.DicomMetaDictionary.naturalizeDataset(message.dict);
    dataset._meta = dcmjs.data.DicomMetaDictionary.namifyDataset(message.meta);
    try {
        const frames = decodeSegFramesFromMultiframe(dataset);
        fs.writeFileSync(path + '.frames', Buffer.concat(frames.map((frame) => Buffer.from(frame))));
    } catch (error) {
        console.log(path, error.message);
    }
}
"""


@dataclass(frozen=True)
class Ohif:
    """Loader of the OHIF viewer, run by Node.js in a folder with its packages."""

    folder: Path

    def frames(self, paths: list[Path]) -> list[np.ndarray | None]:
        """Pixels of all frames (frames, rows, columns) of each file; None, if it is refused."""
        command = ["node", "load.mjs", *map(str, paths)]
        found = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr[-2000:]
        return [frames_of(path) for path in paths]


def frames_of(path: Path) -> np.ndarray | None:
    """Frames that the loader has written beside a file."""
    written = Path(f"{path}.frames")
    if not written.exists():
        return None
    header = pydicom.dcmread(path, stop_before_pixels=True)
    return np.fromfile(written, np.uint8).reshape(-1, int(header.Rows), int(header.Columns))


def install_ohif(folder: Path) -> Ohif:
    """Install the loader from the package registry into a folder, or skip."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, by which the loader of OHIF is installed")
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps", "--omit=peer"]
    environment = {**os.environ, "npm_config_cache": str(folder / "cache")}
    command = ["npm", "install", *options, *PACKAGES]
    try:
        installed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install the loader of OHIF within 2 minutes")
    if installed.returncode:
        pytest.skip(f"npm cannot install the loader of OHIF: {installed.stderr.decode()[-200:]}")
    (folder / "load.mjs").write_text(LOADER, encoding="utf-8")
    return Ohif(folder)


def labels_by_dcmqi(path: Path, folder: Path) -> dict[int, nib.Nifti1Image]:
    """Mask of each segment that has frames, keyed by its number, as dcmqi converts it."""
    command = shutil.which("segimage2itkimage", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        pytest.skip("dcmqi is not installed (pip install dcmqi)")
    folder.mkdir(exist_ok=True)
    call = [command, "--inputDICOM", str(path), "--outputDirectory", str(folder), "--outputType", "nii"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {int(file.name.partition(".")[0].rpartition("-")[2]): nib.load(file) for file in folder.glob("*.nii.gz")}
