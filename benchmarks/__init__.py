"""Measurements of speed and of cheaper searches, each a command.

`speed` compares renderers, `growth` measures how time and memory grow, `preview` how often previews
choose the level that the exact search chooses, and `searches` how often cheaper searches do.
"""
