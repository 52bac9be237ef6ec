"""Prediction with Ray on many machines."""
