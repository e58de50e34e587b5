from .cache import Latents as Latents
from .canvas import open_canvas as open_canvas
