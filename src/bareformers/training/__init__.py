"""Training on a thin subclass of `transformers.Trainer`: budgets, schedules, checkpoints that resume exactly."""
