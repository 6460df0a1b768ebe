"""Writes the record of a task for every dialect: the counterpart of `reconciler/kie/dialects`. Pure."""
