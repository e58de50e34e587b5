"""`python -m tumorgen_cli.cli`, for torchrun and accelerate."""

from tumorgen_cli.cli.main import start

start()
