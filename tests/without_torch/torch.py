"""In PyTorch's place for `tests.commands`: users need not have it."""

raise ImportError("this is where PyTorch is not")
