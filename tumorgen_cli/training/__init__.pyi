from .checkpoints import is_finished as is_finished
from .checkpoints import load_weights as load_weights
from .loop import train as train
from .stage import Objective as Objective
from .stage import Stage as Stage
from .stage import StageRun as StageRun
