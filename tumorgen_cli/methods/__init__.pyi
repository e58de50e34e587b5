from .base import Method as Method
from .base import Request as Request
from .base import Sampling as Sampling
from .base import Synthetic as Synthetic
from .open import open_method as open_method
from .registry import METHODS as METHODS
from .registry import find_method as find_method
