"""tumorgen: learn tumors from a small annotated 3D data set, paint new ones into healthy scans."""

__version__ = "0.1.0"
