"""All drafts for a survey, in the order in which they are to be run."""

from __future__ import annotations

from medvit.drafts.draft import Draft
from medvit.drafts.images import Images, Project
from medvit.drafts.ingest import draft_ingest
from medvit.drafts.results import draft_evaluate, draft_predict
from medvit.drafts.training import DraftedTask, draft_finetune, draft_pretrain
from medvit.ingest.survey.found import Survey


def proposals(survey: Survey, project: Project) -> tuple[Draft, ...]:
    """Return the drafts for a surveyed source, in the order in which they are to be run.

    There is one draft of ingest and one of pretrain. Drafts of finetune, evaluate and predict are made for labels, for
    label maps, or for both. If there are both, the files for label maps have names such as `finetune-masks.yaml`.
    """
    images = Images.of(survey)
    drafts = [draft_ingest(survey, images, project), draft_pretrain(images, project)]
    for task, suffix in _tasks(survey, images):
        drafts.append(draft_finetune(survey, images, project, task, suffix))
        drafts.append(draft_evaluate(survey, images, project, task, suffix))
        drafts.append(draft_predict(images, project, task, suffix))
    return tuple(drafts)


def _tasks(survey: Survey, images: Images) -> list[tuple[DraftedTask, str]]:
    has_labels = bool(survey.label_keys)
    if images.group.num_masks == 0 or images.group.kind == "slide":
        return [("classification", "")] if has_labels else []
    return [("classification", ""), ("segmentation", "-masks")] if has_labels else [("segmentation", "")]
