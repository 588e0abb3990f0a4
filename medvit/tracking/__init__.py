"""MLflow tracking: parameters, metrics, figures and the lineage of a stage.

A stage calls its `Tracker`, whose calls only append to a journal in the folder of the run. A thread sends the journal
to MLflow, so a slow or missing store neither delays nor stops the work. Records that could not be sent by the end of
the run remain in the journal, and `medvit sync` sends them later. If tracking is off, the same calls do nothing. MLflow
is imported nowhere else.
"""

from medvit.tracking.environment import device_tag, environment_tags
from medvit.tracking.journal import FOLDER
from medvit.tracking.names import mlflow_name
from medvit.tracking.options import ARTIFACTS, TrackingConfig, database
from medvit.tracking.run_names import run_name
from medvit.tracking.search import holds_runs, recorded
from medvit.tracking.sync import Sent, journals, send
from medvit.tracking.tracker import MlflowTracker, Tracker, start

__all__ = [
    "ARTIFACTS",
    "FOLDER",
    "MlflowTracker",
    "Sent",
    "Tracker",
    "TrackingConfig",
    "database",
    "device_tag",
    "environment_tags",
    "holds_runs",
    "journals",
    "mlflow_name",
    "recorded",
    "run_name",
    "send",
    "start",
]
