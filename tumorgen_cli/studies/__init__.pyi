from .comparison import ComparisonDesign as ComparisonDesign
from .comparison import compare_methods as compare_methods
from .downstream import measure_gains as measure_gains
from .downstream_forecast import forecast_gains as forecast_gains
from .downstream_pilot import run_pilot as run_pilot
from .reader_scores import score_study as score_study
from .reader_study import make_study as make_study
from .training_length import TrainingLength as TrainingLength
