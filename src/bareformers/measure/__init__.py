"""What a model gives and what it costs, measured on the model itself, never declared."""
