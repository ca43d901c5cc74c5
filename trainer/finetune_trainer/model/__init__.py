"""From a model's name to a module that takes packed rows and returns a loss."""
