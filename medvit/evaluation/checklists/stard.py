"""STARD-AI 2025, checklist for diagnostic accuracy: 40 items in 48 rows, in our own words.

Sounderajah et al., Nature Medicine 2025. The index test is the model.
"""

from __future__ import annotations

from medvit.evaluation.checklists.items import Checklist, ChecklistItem
from medvit.evaluation.fact import Fact

PARTICIPANTS, DATASET = "Methods: participants", "Methods: dataset"
TEST, ANALYSIS = "Methods: test methods", "Methods: analysis"
PEOPLE, RESULTS, OTHER = "Results: participants and dataset", "Results: test results", "Other information"

STARD = Checklist(
    "STARD-AI 2025",
    "Sounderajah et al., Nature Medicine 2025",
    "Items in our own words. The index test is the model.",
    (
        ChecklistItem(
            "1", "Title or abstract", "Diagnostic accuracy of artificial intelligence, with a measure", keys=("title",)
        ),
        ChecklistItem("2", "Abstract", "Structured summary", keys=("abstract",)),
        ChecklistItem(
            "3",
            "Introduction",
            "Background, intended use, place in the workflow",
            keys=("background", "intended_use.workflow"),
        ),
        ChecklistItem("4", "Introduction", "Objectives and hypotheses", keys=("objectives",)),
        ChecklistItem(
            "5", "Methods: design", "Data collection planned before or after the tests", keys=("study.design",)
        ),
        ChecklistItem("6", "Methods: ethics", "Approval, or why none was needed", keys=("ethics",)),
        ChecklistItem(
            "7",
            PARTICIPANTS,
            "Inclusion and exclusion of people and of data, in order",
            facts=(Fact.RULES_OF_IMAGES, Fact.REFUSED),
            keys=("eligibility.people",),
            more_keys=("eligibility.data",),
        ),
        ChecklistItem("8", PARTICIPANTS, "On what basis candidates were found", keys=("study.basis",)),
        ChecklistItem("9", PARTICIPANTS, "Place and dates", keys=("study.setting", "study.dates")),
        ChecklistItem("10", PARTICIPANTS, "Consecutive, random or convenience", keys=("study.series",)),
        ChecklistItem(
            "11",
            DATASET,
            "Source: routine, for the study, or open",
            facts=(Fact.DATA_SOURCE,),
            keys=("data.collected",),
            more_facts=(Fact.DATA_LICENSE,),
        ),
        ChecklistItem("12", DATASET, "Annotators, and the context of their work", keys=("reference.annotators",)),
        ChecklistItem(
            "13",
            DATASET,
            "Devices and software; their intended use",
            facts=(Fact.ACQUISITION, Fact.SOFTWARE),
            keys=("intended_use.purpose",),
        ),
        ChecklistItem(
            "14",
            DATASET,
            "Acquisition and preprocessing",
            facts=(Fact.ACQUISITION, Fact.PREPROCESSING),
            keys=("data.acquisition",),
        ),
        ChecklistItem("15a", TEST, "Index test, repeatable", facts=(Fact.ARCHITECTURE, Fact.MODEL_HASH, Fact.COMMAND)),
        ChecklistItem(
            "15b", TEST, "Development: training, validation, test", facts=(Fact.TRAINING, Fact.SPLIT_RULE, Fact.COUNTS)
        ),
        ChecklistItem(
            "15c",
            TEST,
            "Cut-offs of the index test, and why; prespecified or explored",
            facts=(Fact.THRESHOLD,),
            keys=("thresholds_why", "thresholds_prespecified"),
        ),
        ChecklistItem("15d", TEST, "End user and expertise", keys=("intended_use.users", "intended_use.expertise")),
        ChecklistItem("16a", TEST, "Reference standard, repeatable", keys=("reference.definition",)),
        ChecklistItem("16b", TEST, "Why this reference standard", keys=("reference.rationale",)),
        ChecklistItem(
            "16c", TEST, "Cut-offs of the reference standard", keys=("reference.cutoffs",), more_facts=(Fact.LABELS,)
        ),
        ChecklistItem(
            "17a", TEST, "Knowledge of clinical data or reference in the index test", facts=(Fact.INPUTS, Fact.OVERLAP)
        ),
        ChecklistItem("17b", TEST, "Knowledge of those who judged the reference", keys=("reference.blinding",)),
        ChecklistItem(
            "18",
            ANALYSIS,
            "Estimation and comparison of accuracy",
            facts=(Fact.METRICS, Fact.INTERVALS),
            more_facts=(Fact.DIFFERENCES,),
        ),
        ChecklistItem("19", ANALYSIS, "Indeterminate results", facts=(Fact.MISSING,)),
        ChecklistItem("20", ANALYSIS, "Missing data", facts=(Fact.MISSING,), more_keys=("data.missing",)),
        ChecklistItem(
            "21",
            ANALYSIS,
            "Analyses of variability; prespecified or explored",
            facts=(Fact.SUBGROUPS,),
            keys=("analysis.prespecified",),
        ),
        ChecklistItem(
            "22", ANALYSIS, "Intended sample size", keys=("sample_size.intended", "sample_size.justification")
        ),
        ChecklistItem(
            "23",
            ANALYSIS,
            "Analysis of errors, bias and fairness",
            facts=(Fact.FAILURES, Fact.SUBGROUPS),
            keys=("analysis.fairness",),
        ),
        ChecklistItem(
            "24",
            PEOPLE,
            "Flow, as a diagram",
            facts=(Fact.FLOW_DIAGRAM,),
            keys=("flow.before_ingest",),
            more_facts=(Fact.FLOW,),
        ),
        ChecklistItem(
            "25",
            PEOPLE,
            "Demographic, clinical and technical features of training, validation and test",
            facts=(Fact.AGE_SEX, Fact.SCANNERS),
            keys=("clinical_table",),
            more_facts=(Fact.COUNTS,),
        ),
        ChecklistItem(
            "26a", PEOPLE, "Severity in those with the condition", facts=(Fact.SEVERITY,), more_keys=("clinical_table",)
        ),
        ChecklistItem("26b", PEOPLE, "Other diagnoses in those without", keys=("reference.alternatives",)),
        ChecklistItem(
            "27", PEOPLE, "Time and treatment between index test and reference", keys=("reference.interval",)
        ),
        ChecklistItem(
            "28",
            PEOPLE,
            "Prevalence compared with the intended population",
            facts=(Fact.EVENTS,),
            keys=("intended_use.prevalence",),
            more_facts=(Fact.PREDICTIVE_VALUES,),
        ),
        ChecklistItem(
            "29",
            PEOPLE,
            "External data: differences from training",
            facts=(Fact.COMPARED_DATASETS,),
            more_facts=(Fact.OTHER_DATASET,),
            unless=Fact.OTHER_DATASET,
        ),
        ChecklistItem("30", RESULTS, "Cross table of index test and reference", facts=(Fact.CONFUSION,)),
        ChecklistItem("31", RESULTS, "Accuracy with precision", facts=(Fact.ESTIMATES,), more_facts=(Fact.RATES,)),
        ChecklistItem("32", RESULTS, "Adverse events", keys=("adverse_events",), unless=Fact.PROSPECTIVE),
        ChecklistItem("33", "Discussion", "Limitations", keys=("discussion.limitations",), more_facts=(Fact.WARNINGS,)),
        ChecklistItem("34", "Discussion", "Implications, intended use, role", keys=("discussion.implications",)),
        ChecklistItem("35", "Discussion", "Ethics of use, standards, fairness", keys=("discussion.ethics",)),
        ChecklistItem("36", OTHER, "Registration", keys=("registration",)),
        ChecklistItem("37", OTHER, "Full protocol", keys=("protocol",)),
        ChecklistItem("38", OTHER, "Funding and role of funders", keys=("funding",)),
        ChecklistItem("39", OTHER, "Commercial interests", keys=("conflicts",)),
        ChecklistItem(
            "40a",
            OTHER,
            "Availability of data and code",
            keys=("availability.data", "availability.code"),
            more_facts=(Fact.DATA_LICENSE,),
        ),
        ChecklistItem(
            "40b",
            OTHER,
            "Outputs stored, auditable, open to evaluation",
            facts=(Fact.MODEL_HASH,),
            keys=("availability.outputs",),
        ),
    ),
)
