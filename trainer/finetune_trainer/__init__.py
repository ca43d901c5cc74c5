"""The trainer: dialogues, labels, packing, batches, engine, loop, checkpoints, export, publication."""
