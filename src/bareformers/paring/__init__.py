"""Paring: a trained model with mixers in the place of attention that does not earn its keep."""
