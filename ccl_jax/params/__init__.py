"""Parameters as a nested dict: rules on paths, their place on a mesh, LoRA."""
