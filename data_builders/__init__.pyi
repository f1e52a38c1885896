from .base.cohort import Cohort as Cohort
from .base.cohort import Scan as Scan
from .base.cohort import Schema as Schema
from .base.readers import Pixels as Pixels
from .base.readers import UnreadableScan as UnreadableScan
from .base.readers import read_nifti as read_nifti
