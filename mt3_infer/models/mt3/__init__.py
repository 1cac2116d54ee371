"""MT3: multi-instrument transcription, waveform → segments → log-mel → T5 → tokens → notes.

Source: Gardner et al., MT3: Multi-Task Multitrack Music Transcription (ICLR 2022). Weights: Magenta, Apache-2.0.
"""
