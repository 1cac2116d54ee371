"""Basic Pitch: waveform → windows → network → posteriors → notes.

Source: Bittner et al., A Lightweight Instrument-Agnostic Model for Polyphonic Note Transcription and
Multipitch Estimation (ICASSP 2022), and the behavior of the package basic-pitch 0.4.0 (Apache-2.0).
"""
