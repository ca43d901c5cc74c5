"""What pods of a FineTuneJob run that have to do with an evaluation: the evaluation, and what looks at it before training."""
