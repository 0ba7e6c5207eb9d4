"""What a mixer means: each paper's equation as a loop."""
