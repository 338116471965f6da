"""Tables that measure the method: each folder is a set of settings and rows.

Read `specification` first, then `execution`, `record`, `run` and `pages`.
"""
