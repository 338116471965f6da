"""Commands that measure speed, growth, previews and backgrounds, with their records."""
