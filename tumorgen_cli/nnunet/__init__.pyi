from .job import TrainingData as TrainingData
from .job import TrainingJob as TrainingJob
from .job import TrainingOptions as TrainingOptions
from .job import make_job as make_job
from .results import read_learned_cases as read_learned_cases
from .runner import export_line as export_line
from .runner import run_job as run_job
