"""The pipeline's stages: pure functions of what is observed. Each takes the status so far and returns it changed."""
