"""Tables of the paper: each folder is a set of settings and methods, run through the stages."""
