"""The commands of `genie`, and helpers for the command lines of the stages.

`main` defines the commands `caption`, `compare`, `convert-resnet`, `doctor`, `fetch`, `gc`,
`methods`, `new`, `predict`, `preview`, `reproduced`, `summary` and `verify`. Other modules
implement the commands and print nothing. The stages also use the modules `log`, `signals`,
`curves`, `places` and `engine_settings`. Nothing here can change a result, so dvc.yaml does not
list this package. `template` contains the files for a new project.
"""
