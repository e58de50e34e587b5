"""FreeTumor behind the contract.

`config` holds settings and plan rules, `windows` the training windows, `objectives` the losses, `method` the contract.
"""
