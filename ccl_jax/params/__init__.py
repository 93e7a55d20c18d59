"""Parameters as a nested dict: rules on paths, sharding, LoRA."""
