"""CLAIM 2024, checklist for artificial intelligence in medical imaging: 44 items.

Tejani et al., Radiology: Artificial Intelligence 2024. The checklist has no open license: only the numbers of the items
are its own, all words are ours.
"""

from __future__ import annotations

from medvit.evaluation.checklists.items import Checklist, ChecklistItem
from medvit.evaluation.fact import Fact

DATA, REFERENCE, MODEL = "Methods: data", "Methods: reference standard", "Methods: model"
TRAINING, TESTING = "Methods: training", "Methods: evaluation"
PERFORMANCE = "Results: performance"

CLAIM = Checklist(
    "CLAIM 2024",
    "Tejani et al., Radiology: Artificial Intelligence 2024",
    "Items in our own words; the original wording is in the publication.",
    (
        ChecklistItem("1", "Title and abstract", "Title names artificial intelligence, and its kind", keys=("title",)),
        ChecklistItem("2", "Title and abstract", "Abstract: design, methods, results, conclusions", keys=("abstract",)),
        ChecklistItem(
            "3",
            "Introduction",
            "Clinical background; purpose and role of the model",
            keys=("background", "intended_use.purpose"),
        ),
        ChecklistItem("4", "Introduction", "Aims, objectives and hypotheses", keys=("objectives",)),
        ChecklistItem("5", "Methods: design", "Prospective or retrospective", keys=("study.design",)),
        ChecklistItem("6", "Methods: design", "Goal of the study", keys=("study.goal",)),
        ChecklistItem(
            "7", DATA, "Sources of the data", facts=(Fact.DATA_SOURCE, Fact.DATA_HASHES), keys=("data.sources",)
        ),
        ChecklistItem(
            "8",
            DATA,
            "Inclusion and exclusion of people and data",
            facts=(Fact.RULES_OF_IMAGES, Fact.REFUSED),
            keys=("eligibility.people",),
            more_keys=("eligibility.data",),
        ),
        ChecklistItem("9", DATA, "Preprocessing", facts=(Fact.PREPROCESSING,)),
        ChecklistItem(
            "10", DATA, "Choice of parts of the data", facts=(Fact.RULES_OF_IMAGES,), more_keys=("data.subsets",)
        ),
        ChecklistItem(
            "11", DATA, "De-identification", facts=(Fact.DEIDENTIFICATION,), more_keys=("data.deidentification",)
        ),
        ChecklistItem(
            "12", DATA, "Missing data and how they were handled", facts=(Fact.MISSING,), keys=("data.missing",)
        ),
        ChecklistItem("13", DATA, "Acquisition of the images", facts=(Fact.ACQUISITION,), keys=("data.acquisition",)),
        ChecklistItem(
            "14", REFERENCE, "Origin of the truth", keys=("reference.definition",), more_facts=(Fact.LABELS,)
        ),
        ChecklistItem("15", REFERENCE, "Why this reference standard", keys=("reference.rationale",)),
        ChecklistItem("16", REFERENCE, "Source of the annotations", keys=("reference.annotators",)),
        ChecklistItem("17", REFERENCE, "Annotation of the test set", keys=("reference.test_set",)),
        ChecklistItem(
            "18",
            REFERENCE,
            "Variation between and within annotators",
            facts=(Fact.READERS,),
            keys=("reference.variability",),
            either=True,
        ),
        ChecklistItem("19", "Methods: partitions", "Assignment to partitions", facts=(Fact.SPLIT_RULE, Fact.COUNTS)),
        ChecklistItem(
            "20", "Methods: partitions", "Level at which partitions are disjoint", facts=(Fact.SPLIT_RULE, Fact.OVERLAP)
        ),
        ChecklistItem(
            "21",
            "Methods: test data",
            "Intended sample size",
            keys=("sample_size.intended",),
            more_facts=(Fact.COUNTS,),
            more_keys=("sample_size.justification",),
        ),
        ChecklistItem(
            "22", MODEL, "Model in detail", facts=(Fact.ARCHITECTURE, Fact.INPUTS, Fact.OUTPUT, Fact.MODEL_HASH)
        ),
        ChecklistItem("23", MODEL, "Software and versions", facts=(Fact.SOFTWARE,)),
        ChecklistItem("24", MODEL, "Initialization of the weights", facts=(Fact.INITIAL_WEIGHTS,)),
        ChecklistItem("25", TRAINING, "Training in detail", facts=(Fact.TRAINING,)),
        ChecklistItem("26", TRAINING, "Choice of the final model", facts=(Fact.CHOICE_OF_MODEL,)),
        ChecklistItem("27", TRAINING, "Ensembles", facts=(Fact.ENSEMBLE,), unless=Fact.ENSEMBLE),
        ChecklistItem("28", TESTING, "Metrics", facts=(Fact.METRICS,), keys=("analysis.metrics_why",)),
        ChecklistItem(
            "29", TESTING, "Uncertainty and significance", facts=(Fact.INTERVALS,), more_facts=(Fact.DIFFERENCES,)
        ),
        ChecklistItem(
            "30", TESTING, "Robustness and sensitivity", facts=(Fact.SUBGROUPS,), more_facts=(Fact.CLUSTERS,)
        ),
        ChecklistItem(
            "31", TESTING, "Explainability", facts=(Fact.ATTENTION,), keys=("analysis.explainability",), either=True
        ),
        ChecklistItem("32", TESTING, "Evaluation on internal data", facts=(Fact.OWN_TEST_SPLIT,)),
        ChecklistItem(
            "33",
            TESTING,
            "Testing on external data (another dataset is not necessarily another hospital)",
            keys=("analysis.no_external",),
            more_facts=(Fact.OTHER_DATASET,),
        ),
        ChecklistItem("34", TESTING, "Registration of a clinical trial", keys=("registration",)),
        ChecklistItem(
            "35",
            "Results: data",
            "Patients or examinations included and excluded",
            facts=(Fact.FLOW, Fact.COUNTS),
            keys=("flow.before_ingest",),
        ),
        ChecklistItem(
            "36",
            "Results: data",
            "Demographic and clinical features of each partition",
            facts=(Fact.AGE_SEX, Fact.EVENTS),
            keys=("clinical_table",),
            more_facts=(Fact.SCANNERS,),
        ),
        ChecklistItem(
            "37", PERFORMANCE, "Metrics with uncertainty", facts=(Fact.ESTIMATES,), more_facts=(Fact.SUBGROUPS,)
        ),
        ChecklistItem(
            "38",
            PERFORMANCE,
            "Diagnostic performance and its precision",
            facts=(Fact.RATES,),
            more_facts=(Fact.THRESHOLD, Fact.PREDICTIVE_VALUES),
        ),
        ChecklistItem(
            "39",
            PERFORMANCE,
            "Analysis of failures",
            facts=(Fact.FAILURES,),
            keys=("discussion.failures",),
            more_facts=(Fact.CONFUSION, Fact.SUBGROUPS),
        ),
        ChecklistItem("40", "Discussion", "Limitations", keys=("discussion.limitations",), more_facts=(Fact.WARNINGS,)),
        ChecklistItem(
            "41",
            "Discussion",
            "Implications for practice",
            keys=("discussion.implications",),
            more_keys=("intended_use.out_of_scope",),
        ),
        ChecklistItem(
            "42", "Other information", "Protocol and further detail", keys=("protocol",), more_facts=(Fact.COMMAND,)
        ),
        ChecklistItem(
            "43",
            "Other information",
            "Availability of software, model and data",
            keys=("availability.data", "availability.code", "availability.model"),
            more_facts=(Fact.DATA_LICENSE,),
        ),
        ChecklistItem("44", "Other information", "Funding and role of funders", keys=("funding",)),
    ),
)
