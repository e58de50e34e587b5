from .archive import read_archive as read_archive
from .archive import write_archive as write_archive
from .card import model_card as model_card
from .installed import find_model as find_model
from .installed import installed_models as installed_models
from .membership import Membership as Membership
from .pooling import pool_fingerprint as pool_fingerprint
from .record import ModelRecord as ModelRecord
