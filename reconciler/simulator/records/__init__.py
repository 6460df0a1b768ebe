"""What each family's status route answers about a task: the counterparts of `reconciler/kie/dialects`. Pure."""
