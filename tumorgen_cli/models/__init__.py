"""Networks: modules that take plain numbers, never a plan."""
