from .method import TumorGen as TumorGen
