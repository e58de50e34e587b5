"""Arrays in, numbers out: overlap, tumor statistics, distances of slices, radiomics, a classifier, novelty."""
