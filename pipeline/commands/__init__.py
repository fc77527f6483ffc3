"""One file per command of the command line: its options, the call of its stage, what it prints."""
