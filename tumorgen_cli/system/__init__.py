"""What every stage needs from the machine: errors, files, JSON records, locks, console, devices, child processes.

It knows nothing about scans or tumors. Every folder may import it; it imports nothing else from the package.
"""
