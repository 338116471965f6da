"""The command line: the commands of `genie`, and helpers for the command line of the stages.

`main` defines the commands `caption`, `compare`, `convert-resnet`, `doctor`, `fetch`, `gc`,
`methods`, `new`, `predict`, `preview`, `reproduced`, `summary` and `verify`. Other modules
implement them and print nothing. Stages take their log, signals, curves, working folders and engine
from here (`log`, `signals`, `curves`, `places`, `engine_settings`). Nothing here can change a
result, so dvc.yaml does not list this package. `template` contains the files of a new project.
"""
