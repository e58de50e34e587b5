from .card import JudgeRecord as JudgeRecord
from .find import choose_judge as choose_judge
from .find import needed_judge as needed_judge
from .model import Judge as Judge
from .train import train_judge as train_judge
from .verdict import judge_pair as judge_pair
