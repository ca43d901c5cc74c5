"""What comes before a run and after it: data, prompts, answers, and proof that a model is better."""
