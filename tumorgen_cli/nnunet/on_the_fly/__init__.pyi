from .pool import PaintedPatch as PaintedPatch
from .pool import Pool as Pool
from .settings import PainterJob as PainterJob
from .settings import Painting as Painting
from .trainer import PaintingMixin as PaintingMixin
