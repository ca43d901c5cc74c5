"""What a job asks to be measured after training: one checkpoint beside its base, with everything kept so that it goes on after any end."""
