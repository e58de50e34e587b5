"""Networks and samplers, one a file: modules that take plain numbers, never a plan, and pure schedules of tensors."""
