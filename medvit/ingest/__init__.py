"""Steps of ingest: scan a source, label, split, flag, store and update.

A step receives the images of a source as `Candidate`s and returns them with more fields set: patients, labels and
splits. Finally, the pixels of each candidate are read and stored, and a `Taken` records the result. A candidate
contains names, identifiers and paths; the row made from it contains only pseudonyms.
"""

import sys

from medvit import StageRoom

VERSION = 6
"""Version of the data stored and recorded for an image. If it is increased, the next update of a dataset reads all
images again.
"""

sys.modules[__name__].__class__ = StageRoom  # medvit.ingest(...) runs the stage
