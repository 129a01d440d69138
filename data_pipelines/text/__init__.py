"""Vocabularies, WordPiece, answers."""
