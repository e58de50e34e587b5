"""Systems that paint tumors, all behind one contract (`base.Method`).

In: a window of a host scan and a box. Out: a painted window and a mask. Each method has one file or folder; methods
never import each other. `registry` knows all methods by name without importing torch.
"""
