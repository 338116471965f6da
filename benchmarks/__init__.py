"""Commands that measure speed, growth, previews, coverage and backgrounds, with the results."""
