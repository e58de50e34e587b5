"""The stages, one file each: what a command does once its options are read. Each reads a workspace, does one step, can be
killed and run again, and returns a record.
"""
