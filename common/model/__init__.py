"""Shared by training and prediction: recipe, network, checkpoint, scores."""
