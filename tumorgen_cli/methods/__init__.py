"""Systems that paint tumors, all behind one contract (`base.Method`). In: a window of a host, a box. Out: a painted window
and a mask. One file or folder a method; methods never import each other.
"""
