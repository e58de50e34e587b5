"""The errors that functions raise. `error.faults` lists where, what was found, what was expected, and the remedy."""

from tumorgen_cli.system.errors import DataError, DeviceError, Fault, PlanError, StateError, TumorgenError

__all__ = ["DataError", "DeviceError", "Fault", "PlanError", "StateError", "TumorgenError"]
