"""Measurements of speed and of what a cheaper search changes, each a command."""
