"""Compiled modules are kept: where an environment keeps none, every process of every run would compile the project."""

import os
import sys

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
