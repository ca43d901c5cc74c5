"""The main job's stages in pods: `python -m finetune_trainer.pods prepare|train|publish|before-stop`."""
