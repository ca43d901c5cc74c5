"""What models are asked: our prompts, those of a file or a Hub data set, and new ones that an endpoint writes."""
