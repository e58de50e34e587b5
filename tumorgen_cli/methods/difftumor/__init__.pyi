from .method import DiffTumor as DiffTumor
