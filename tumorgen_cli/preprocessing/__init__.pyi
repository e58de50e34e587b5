from .cases import Case as Case
from .cases import is_done as is_done
from .cases import load_case as load_case
from .intensity import scale as scale
from .intensity import scan_limits as scan_limits
from .intensity import unscale as unscale
from .windows import augment as augment
from .windows import cut_tumor_window as cut_tumor_window
