"""Weights from elsewhere: files, conversion tables (one per source), and putting them into a training state."""
