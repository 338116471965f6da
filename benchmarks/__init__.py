"""Measurements of speed, growth, previews and backgrounds, each a command with its record."""
