"""Experiments of many stages: methods side by side, nnU-Nets with and without pairs, readers who tell real from synthetic."""
