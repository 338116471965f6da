"""The commands of `genie`: fetch, convert-resnet, caption, compare, difference, summary, verify.

`cli` defines the commands. The other modules implement them and print nothing. No stage imports
this package.
"""
