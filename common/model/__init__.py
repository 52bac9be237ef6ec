"""What training and prediction share: recipe, network, checkpoint, scores."""
