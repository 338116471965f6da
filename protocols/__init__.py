"""Tables of the paper: each folder is a set of settings and methods, run through the stages.

Read `specification` first, then `execution`, `table` and `run`.
"""
