"""MR-MT3: MT3 with a memory of the tokens of the segment before.

Source: Tan et al., MR-MT3: Memory Retaining Multi-Track Music Transcription to Mitigate Instrument Leakage (2024).
"""
