"""In: raw cases and the plan. Out: memory-mapped cases on the working grid, and augmented training windows cut from them."""
