"""A YAML file in, trained parts out: stages, optimiser, checkpoints and the one trainer of all recipes."""
