from .data_builders import Cohort as Cohort
from .data_builders import Pixels as Pixels
from .data_builders import Scan as Scan
from .data_builders import Schema as Schema
from .data_builders import UnreadableScan as UnreadableScan
from .engine import metrics as metrics
from .engine.config import Run as Run
from .engine.errors import UserError as UserError

__version__: str
