"""The embedded models and the code that trains and evaluates them."""
