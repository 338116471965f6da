"""Measurements of speed and of cheaper searches, each a command.

`speed` compares renderers, `growth` says how time and memory grow, `preview` how often previews
choose the level that the exact search does, and `searches` the same of cheaper ways.
"""
