"""One training loop for every stage of every method: exact resume, EMA, mixed precision, several processes. In: a `Stage`
(networks, batches, objective). Out: checkpoints and weights in the stage's folder.
"""
