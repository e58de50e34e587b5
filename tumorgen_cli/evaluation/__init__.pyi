from .cases import real_tumors as real_tumors
from .cases import synthetic_cases as synthetic_cases
from .design import Design as Design
from .evaluate import evaluate_set as evaluate_set
from .evaluate import read_scores as read_scores
from .filter import filter_set as filter_set
from .options import ScoreOptions as ScoreOptions
from .scores import Scores as Scores
