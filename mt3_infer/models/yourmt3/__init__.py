"""YourMT3+: waveform → segments → log spectrogram → encoder → tokens of several channels → notes.

Source: Chang et al., YourMT3+: Multi-Instrument Music Transcription with Enhanced Transformer Architectures and
Cross-Dataset Stem Augmentation (2024).
"""
