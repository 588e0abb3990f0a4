"""timm with a CPU-only torch, in programs that do not import medvit."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def test_timm_imports_in_a_program_that_never_imports_medvit(tmp_path: Path) -> None:
    """By the entry points of pyproject.toml, as an installation writes them down; nothing runs before torch does."""
    group = "torch.backends"
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = tmp_path / "medvit-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: medvit\nVersion: 0\n")
    entries = "\n".join(f"{name} = {place}" for name, place in project["entry-points"][group].items())
    (installed / "entry_points.txt").write_text(f"[{group}]\n{entries}\n")

    program = "import sys; print('medvit' in sys.modules); import timm; print('medvit' in sys.modules)"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(tmp_path)])}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=paths, cwd=tmp_path)
    assert ran.stdout.split() == ["False", "True"], ran.stderr
