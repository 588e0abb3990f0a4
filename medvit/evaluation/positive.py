"""Choice of the positive one of two classes, and its index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medvit.errors import ConfigError
from medvit.tasks import LabelTask, class_list


def choose_positive(
    classes: Sequence[str], *, asked: str, worst: str, model: str, dataset: str
) -> tuple[str, list[str]]:
    """Return the positive one of two classes, and a note if no argument names it.

    The arguments are tried in this order: `asked`, the class requested by the user; `worst`, the last class of the
    option `order`; `model`, the positive class stored in the model; and `dataset`, that stored in the dataset. The
    first one that names a class is used. If no name does, the last class is positive, with a note. If there are not
    exactly two classes, both results are empty.

    Raises:
        ConfigError: If `asked` is not one of two classes, or if `asked` and `worst` differ.
    """
    if asked and (len(classes) != 2 or asked not in classes):
        raise ConfigError(
            f"positive={asked} is not one of two classes; the model has {class_list(classes, 'no classes')}"
        )
    if len(classes) != 2:
        return "", []
    if asked and worst in classes and worst != asked:
        raise ConfigError(f"positive={asked}, but {worst} is the worst of order; give one of them")
    given = [name for name in (asked, worst, model, dataset) if name in classes]
    if given:
        return given[0], []
    last = classes[1]
    return last, [
        f"no positive class was given: sensitivity, specificity and average precision refer to {last}, the last "
        f"of the classes; positive={classes[0]} refers them to the other"
    ]


def choose_positives(tasks: Sequence[LabelTask], dataset: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the positive class of each label of a multi-task model, and a note for each that is named nowhere.

    The positive class is the one stored in the model, else the one stored in the `dataset`, else the last class. For a
    label that does not have two classes, it is an empty name.
    """
    found, notes = {}, []
    for task in tasks:
        classes = () if task.task == "regression" else task.classes
        found[task.label], missing = choose_positive(
            classes, asked="", worst="", model=task.positive, dataset=dataset.get(task.label, "")
        )
        if missing:
            notes.append(
                f"no positive class of {task.label} was given: sensitivity, specificity and average precision refer to "
                f"{found[task.label]}, the last of its classes"
            )
    return found, notes


def index_of(positive: str, classes: Sequence[str]) -> int:
    """Return the index of the positive one of two classes; 1 if unset."""
    return classes.index(positive) if positive else 1
