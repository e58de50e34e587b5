"""What every stage needs of the machine: errors, files, JSON records, locks, the console, devices, child processes. Knows
nothing of scans or tumors; anyone may import it, and it imports nothing of the package but itself.
"""
