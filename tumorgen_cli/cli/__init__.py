"""The command line: reads options, calls the API, prints results and names the next command.

One file per family of commands; `main` registers them. Starting it, help and wrong options import neither torch nor
nnunetv2 nor SimpleITK.
"""
