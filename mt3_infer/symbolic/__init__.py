"""Music as symbols: tokens, notes, MIDI, and results of segments as bytes.

vocabulary   token ids ↔ events
notes        events → notes
midi         notes → a standard MIDI file
results      what a network returned for segments ↔ bytes
"""
