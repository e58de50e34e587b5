"""In: synthetic sets and the real data. Out: scores of each, gains of nnU-Nets, tables and pages."""
