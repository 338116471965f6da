"""The commands `genie fetch`, `convert-resnet`, `caption`, `summary` and `verify`.

`cli` defines the commands. The other modules implement them and print nothing. No stage imports
this package.
"""
