"""Figures, one module each; `canvas` holds the code that they share.

Of the stages, only `analyse` uses this package, so changing a colour reruns no other stage.
"""
