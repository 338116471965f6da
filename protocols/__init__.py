"""Experiments that measure the method; each folder contains the settings and rows of a table.

Read `specification` first, then `execution`, `record`, `run` and `pages`.
"""
