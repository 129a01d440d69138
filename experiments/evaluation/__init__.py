"""Predictions and scores of a trained model."""
