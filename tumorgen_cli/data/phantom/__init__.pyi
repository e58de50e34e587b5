from .options import PhantomOptions as PhantomOptions
from .scan import Phantom as Phantom
from .scan import Phantoms as Phantoms
from .write import DATASET as DATASET
from .write import DATASETS as DATASETS
from .write import write_phantoms as write_phantoms
