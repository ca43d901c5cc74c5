"""What each rank does: batches, the engine, the loop."""
