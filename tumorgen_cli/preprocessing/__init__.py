"""Preprocess raw cases for a plan: memory-mapped cases on the working grid, and training windows cut from them."""
