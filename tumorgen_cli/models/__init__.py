"""Networks, schedules and samplers, one topic per file.

Networks take plain numbers, never a plan. Schedules and samplers are pure functions of tensors.
"""
