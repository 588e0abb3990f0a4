"""Parts that modules of the evaluation contribute to a report."""

from pathlib import Path

from medvit.document import Commands, Section
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.part import ReportPart, ReportPlace, in_order
from medvit.evaluation.report.parts import repeat_part


def test_parts_of_one_place_keep_their_order():
    places = {"a": ReportPlace.CASES, "b": ReportPlace.ANSWER, "c": ReportPlace.CASES}
    parts = [ReportPart(place, Section(title, [])) for title, place in places.items()]
    assert [part.section.title for part in in_order(parts)] == ["b", "a", "c"]


def test_the_command_repeats_the_evaluation_from_its_configuration_and_names_no_folder_of_this_machine():
    options = EvaluationOptions(
        checkpoint=Path("/home/a/model"), dataset=Path("/home/a/data"), output=Path("/home/a/r")
    )
    (command,) = [block for block in repeat_part(options).section.blocks if isinstance(block, Commands)]
    assert command.text == "medvit evaluate r/config.yaml output=r-again"
