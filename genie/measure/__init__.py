"""Metrics of classifiers and generated images.

`metrics` defines accuracies, intervals and tests. `evaluation` turns predictions into the tables
and the summary in metrics/. `comparison` compares the scores of several runs. `analysis` examines
why the method works, using the recorded trajectories.
"""
