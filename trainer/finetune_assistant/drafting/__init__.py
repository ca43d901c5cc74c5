"""A first job: what is found of model, rows and machine, or what another trainer's file says, as a commented FineTuneJob."""
