"""Input that nobody meant: what people and crashes make of files is read or refused, in words, and nothing else happens.

`make fuzz` runs it for as long as it is told to, outside CI; docs/fuzzing.md has what it found.
"""
