"""Scans and data sets. In: nnU-Net raw data sets and folders of host scans. Out: arrays with a `Grid`, and frozen records
that say what is on disk and what is wrong with it. Imports `system` and `geometry` alone.
"""
