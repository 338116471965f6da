"""The embedded models and data, and the recipe that made them."""
