"""A page in the browser to talk to a model, beside its base if wanted: who talks, what is voted, what is shown, and a Space of it."""
