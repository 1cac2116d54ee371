"""Engraving: MusicXML → pages of SVG by verovio → PDF."""

from __future__ import annotations
