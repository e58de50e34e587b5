"""DiffTumor behind the contract.

`config` holds settings and plan rules, `objectives` the losses, `method` the contract.
"""
