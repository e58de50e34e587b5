"""Plan the work for a data set: its fingerprint, and the plan, which holds every number with the rule that gave it.

The workspace says where the files of each command are.
"""
