from .method import Pixel2Cancer as Pixel2Cancer
