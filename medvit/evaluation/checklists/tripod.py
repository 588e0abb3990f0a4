"""TRIPOD+AI 2024, checklist for prediction models: 27 items in 52 rows (Collins et al., BMJ 2024), in our own words.

The letters in the sections are those of the publication: D for development, E for evaluation of a model.
"""

from __future__ import annotations

from medvit.evaluation.checklists.items import Checklist, ChecklistItem
from medvit.evaluation.fact import Fact

BACKGROUND, DATA, PARTICIPANTS = "Introduction (D, E)", "Methods: data (D, E)", "Methods: participants (D, E)"
OUTCOME, PREDICTORS = "Methods: outcome (D, E)", "Methods: predictors"
ANALYSIS, OPEN = "Methods: analysis", "Open science (D, E)"
RESULTS, DISCUSSION = "Results: participants", "Discussion"

TRIPOD = Checklist(
    "TRIPOD+AI 2024",
    "Collins et al., BMJ 2024",
    "Items in our own words. Predictors are here the images and any covariates. D: for development of a model; E: for "
    "evaluation.",
    (
        ChecklistItem(
            "1", "Title (D, E)", "Development or evaluation of a prediction model; population; outcome", keys=("title",)
        ),
        ChecklistItem("2", "Abstract (D, E)", "The 13 points of the list for abstracts", keys=("abstract",)),
        ChecklistItem("3a", BACKGROUND, "Health context, earlier models", keys=("background",)),
        ChecklistItem(
            "3b",
            BACKGROUND,
            "Target population, purpose in the pathway, users",
            keys=("intended_use.population", "intended_use.purpose", "intended_use.users"),
        ),
        ChecklistItem("3c", BACKGROUND, "Known health inequalities", keys=("known_inequalities",)),
        ChecklistItem("4", BACKGROUND, "Objectives; development, evaluation or both", keys=("objectives",)),
        ChecklistItem(
            "5a",
            DATA,
            "Sources of development and evaluation data, why these, how representative",
            facts=(Fact.DATA_SOURCE, Fact.DATA_HASHES),
            keys=("data.sources", "data.representativeness"),
        ),
        ChecklistItem(
            "5b", DATA, "Dates of recruitment and follow-up", keys=("study.dates",), more_keys=("study.follow_up",)
        ),
        ChecklistItem(
            "6a",
            PARTICIPANTS,
            "Setting; number and place of centers",
            keys=("study.setting", "study.centres"),
            more_facts=(Fact.SCANNERS,),
        ),
        ChecklistItem(
            "6b",
            PARTICIPANTS,
            "Eligibility",
            keys=("eligibility.people",),
            more_facts=(Fact.RULES_OF_IMAGES,),
            more_keys=("eligibility.data",),
        ),
        ChecklistItem("6c", PARTICIPANTS, "Treatments and how they were handled", keys=("treatments",)),
        ChecklistItem(
            "7",
            "Methods: preparation (D, E)",
            "Preprocessing and quality checks",
            facts=(Fact.PREPROCESSING, Fact.REFUSED),
        ),
        ChecklistItem(
            "8a",
            OUTCOME,
            "Outcome, time horizon, how judged, alike across groups",
            keys=("reference.definition", "reference.alike"),
            more_facts=(Fact.LABELS,),
        ),
        ChecklistItem("8b", OUTCOME, "Qualification of those who judged", keys=("reference.annotators",)),
        ChecklistItem("8c", OUTCOME, "Blinding of this judgement", keys=("reference.blinding",)),
        ChecklistItem("9a", f"{PREDICTORS} (D)", "Choice of predictors", facts=(Fact.INPUTS,), keys=("inputs.why",)),
        ChecklistItem(
            "9b",
            f"{PREDICTORS} (D, E)",
            "Measurement of the predictors: which, how and when",
            facts=(Fact.ACQUISITION,),
            keys=("inputs.when",),
        ),
        ChecklistItem("9c", f"{PREDICTORS} (D, E)", "People who measure predictors", keys=("inputs.readers",)),
        ChecklistItem(
            "10",
            "Methods: sample size (D, E)",
            "How sizes came about, and why they suffice",
            keys=("sample_size.intended", "sample_size.justification"),
            more_facts=(Fact.COUNTS, Fact.EVENTS),
        ),
        ChecklistItem(
            "11",
            "Methods: missing data (D, E)",
            "Handling of missing data",
            facts=(Fact.MISSING, Fact.REFUSED),
            keys=("data.missing",),
        ),
        ChecklistItem("12a", f"{ANALYSIS} (D)", "Use of the data, partitions", facts=(Fact.SPLIT_RULE, Fact.COUNTS)),
        ChecklistItem(
            "12b", f"{ANALYSIS} (D)", "Form in which predictors enter the model", facts=(Fact.PREPROCESSING,)
        ),
        ChecklistItem(
            "12c",
            f"{ANALYSIS} (D)",
            "Type of model and why; all steps, tuning, internal validation",
            facts=(Fact.ARCHITECTURE, Fact.TRAINING, Fact.CHOICE_OF_MODEL),
            keys=("analysis.model_why",),
        ),
        ChecklistItem(
            "12d",
            f"{ANALYSIS} (D, E)",
            "Differences between clusters",
            facts=(Fact.CLUSTERS,),
            keys=("analysis.clusters",),
        ),
        ChecklistItem(
            "12e",
            f"{ANALYSIS} (D, E)",
            "Measures and plots, and why; comparison of models",
            facts=(Fact.METRICS, Fact.PLOTS),
            keys=("analysis.metrics_why",),
            more_facts=(Fact.DIFFERENCES,),
        ),
        ChecklistItem(
            "12f",
            f"{ANALYSIS} (E)",
            "Updating of the model after evaluation",
            facts=(Fact.CALIBRATED,),
            unless=Fact.CALIBRATED,
        ),
        ChecklistItem(
            "12g",
            f"{ANALYSIS} (E)",
            "Computation of the predictions",
            facts=(Fact.MODEL_HASH, Fact.SOFTWARE, Fact.COMMAND),
        ),
        ChecklistItem(
            "13",
            "Methods: class imbalance (D, E)",
            "Handling of class imbalance, and recalibration",
            facts=(Fact.IMBALANCE,),
            more_facts=(Fact.CALIBRATED,),
            unless=Fact.IMBALANCE,
        ),
        ChecklistItem(
            "14",
            "Methods: fairness (D, E)",
            "Measures for fairness, and why",
            keys=("analysis.fairness",),
            more_facts=(Fact.SUBGROUPS,),
        ),
        ChecklistItem(
            "15",
            "Methods: output (D)",
            "Output of the model; thresholds and why",
            facts=(Fact.OUTPUT, Fact.THRESHOLD),
            keys=("thresholds_why",),
        ),
        ChecklistItem(
            "16",
            "Methods: training and evaluation (D, E)",
            "Differences in setting, eligibility, outcome and predictors",
            facts=(Fact.TRAINING_COHORT,),
            keys=("study.setting", "eligibility.people", "reference.definition"),
        ),
        ChecklistItem("17", "Methods: ethics (D, E)", "Committee, consent or waiver", keys=("ethics",)),
        ChecklistItem("18a", OPEN, "Funding and role of funders", keys=("funding",)),
        ChecklistItem("18b", OPEN, "Conflicts of interest", keys=("conflicts",)),
        ChecklistItem("18c", OPEN, "Protocol", keys=("protocol",)),
        ChecklistItem("18d", OPEN, "Registration", keys=("registration",)),
        ChecklistItem(
            "18e", OPEN, "Availability of the data", keys=("availability.data",), more_facts=(Fact.DATA_LICENSE,)
        ),
        ChecklistItem(
            "18f",
            OPEN,
            "Availability of the code",
            keys=("availability.code",),
            more_facts=(Fact.SOFTWARE, Fact.COMMAND),
        ),
        ChecklistItem("19", "Involvement (D, E)", "Involvement of patients and the public", keys=("involvement",)),
        ChecklistItem(
            "20a",
            f"{RESULTS} (D, E)",
            "Flow; with and without the outcome; follow-up",
            facts=(Fact.FLOW, Fact.EVENTS),
            keys=("study.follow_up",),
        ),
        ChecklistItem(
            "20b",
            f"{RESULTS} (D, E)",
            "Characteristics overall and per source",
            facts=(Fact.COUNTS, Fact.AGE_SEX, Fact.EVENTS),
            keys=("study.dates", "treatments"),
            more_facts=(Fact.SCANNERS,),
        ),
        ChecklistItem("20c", f"{RESULTS} (E)", "Distributions against development data", facts=(Fact.TRAINING_COHORT,)),
        ChecklistItem(
            "21",
            "Results: development (D, E)",
            "Participants and events in each analysis",
            facts=(Fact.COUNTS, Fact.EVENTS),
        ),
        ChecklistItem(
            "22",
            "Results: specification (D)",
            "The full model, for use by others",
            facts=(Fact.ARCHITECTURE, Fact.MODEL_HASH),
            keys=("availability.model",),
        ),
        ChecklistItem(
            "23a",
            "Results: performance (D, E)",
            "Estimates with intervals, also of subgroups; plots",
            facts=(Fact.ESTIMATES, Fact.PLOTS, Fact.SUBGROUPS),
        ),
        ChecklistItem("23b", "Results: performance (D, E)", "Differences between clusters", facts=(Fact.CLUSTERS,)),
        ChecklistItem(
            "24",
            "Results: updating (E)",
            "Updated model and its performance",
            facts=(Fact.CALIBRATED, Fact.CALIBRATION),
            unless=Fact.CALIBRATED,
        ),
        ChecklistItem(
            "25", f"{DISCUSSION} (D, E)", "Interpretation, fairness included", keys=("discussion.interpretation",)
        ),
        ChecklistItem(
            "26", f"{DISCUSSION} (D, E)", "Limitations", keys=("discussion.limitations",), more_facts=(Fact.WARNINGS,)
        ),
        ChecklistItem("27a", f"{DISCUSSION} (D)", "Poor or missing input in use", keys=("discussion.input_quality",)),
        ChecklistItem("27b", f"{DISCUSSION} (D)", "Tasks of users; expertise", keys=("intended_use.expertise",)),
        ChecklistItem("27c", f"{DISCUSSION} (D, E)", "Next steps; applicability", keys=("discussion.next_steps",)),
    ),
)
