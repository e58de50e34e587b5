"""In: a data set. Out: its fingerprint, and the plan, the one home of every number, each with the rule that gave it. The
workspace says where each command's files lie.
"""
