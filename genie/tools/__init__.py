"""The commands `genie caption`, `compare`, `convert-resnet`, `difference`, `doctor`, `fetch`, `gc`,
`new`, `predict`, `preview`, `reproduced`, `summary` and `verify`.

`cli` defines the commands, and `stages.commands` those that take the pipeline's parameters
(`preview`). The other modules implement them and print nothing. `template` holds the files of a new
project. No stage imports this package.
"""
