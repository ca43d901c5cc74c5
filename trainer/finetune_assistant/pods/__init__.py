"""What the pods of a FineTuneJob run that talks to models: the evaluation."""
