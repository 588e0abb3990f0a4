"""Generated list of every option of every stage: run `python -m docs.options` after changing an option.

`medvit STAGE --help` and the refusal of a misspelt key read this list: they answer in 0.2 s, where importing a stage to
ask it takes several seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import astuple

from medvit.config import groups, keys
from pipelines.__main__ import STAGES, find
from pipelines._help import OPTIONS
from pipelines.plan import PlanConfig


def rendered() -> str:
    """Return the list as JSON, one option a line so that changes are readable; of `plan` only those of its own."""
    return "{\n" + ",\n".join(map(_stage, STAGES)) + "\n}\n"


def _stage(name: str) -> str:
    config = PlanConfig if name == "plan" else find(name).config_type
    lines = ",\n".join(_options(config))
    return f'{json.dumps(name)}: {{\n"groups": {json.dumps(groups(config), indent=0)},\n"keys": [\n{lines}\n]}}'


def _options(config: type) -> Iterator[str]:
    for key in keys(config, every_variant=True):
        yield json.dumps(astuple(key), ensure_ascii=False)


if __name__ == "__main__":
    OPTIONS.write_text(rendered(), encoding="utf-8")
