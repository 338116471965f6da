"""Code shared by the stages: command line, parameters, progress, signals and working folders.

Start with `command`, then `params` and `settings`. dvc.yaml lists the files of this package one by
one, so that a change in one of them reruns only the stages that import it.
"""
