"""Pictures of notes: piano rolls in SVG and with Matplotlib.

`piano_roll` decides what a picture shows, in the same way for all of them. Importing it is quick.
"""
