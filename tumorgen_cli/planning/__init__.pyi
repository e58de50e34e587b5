from .fingerprint import Fingerprint as Fingerprint
from .fingerprint import make_fingerprint as make_fingerprint
from .options import PlanOptions as PlanOptions
from .plan import Decisions as Decisions
from .plan import Plan as Plan
from .plan import make_plan as make_plan
from .presets import preset_names as preset_names
from .workspace import Workspace as Workspace
