from .method import MaskFirst as MaskFirst
