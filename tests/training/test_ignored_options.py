"""Options that a task does not use are reported."""

import logging

from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.task import warn_of_ignored

GIVEN = {"dataset": "data", "output": "out", "foreground": 0.3, "foreground_by": "class"}


def test_options_of_segmentation_are_reported_in_a_classification_only(caplog):
    caplog.set_level(logging.WARNING, "medvit")
    given = FinetuningOptions.parse(GIVEN).set_for_segmentation
    warn_of_ignored("segmentation", given, "segmentation")
    assert not caplog.messages
    warn_of_ignored("classification", given, "segmentation")
    assert [text.partition(" is ignored")[0] for text in caplog.messages] == ["foreground=0.3", "foreground_by=class"]


def test_options_at_their_default_are_not_reported():
    assert FinetuningOptions.parse({"dataset": "data", "output": "out"}).set_for_segmentation == {}
