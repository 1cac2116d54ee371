"""Transkun: waveform → windows → Transformer → scores of intervals → semi-CRF → notes and pedals of a piano.

Source: Yan, Cwitkowitz, Duan, Skipping the Frame-Level: Event-Based Piano Transcription With Neural Semi-CRFs
(NeurIPS 2021); Yan, Duan, Scoring Time Intervals Using Non-Hierarchical Transformer for Automatic Piano
Transcription (ISMIR 2024); and the behavior of the package transkun 2.0.1 (MIT).
"""
