"""The commands of `genie`: fetch, convert-resnet, caption, summary,
compare, difference, predict, doctor and verify.

`cli` defines the commands. The other modules implement them and print nothing. No stage imports
this package.
"""
