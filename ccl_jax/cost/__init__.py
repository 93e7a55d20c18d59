"""The cost of a step: by formula, from the compiled program, and as bounds.

`flops` counts the useful work of the model by formula. `hlo` and `hlo_loops`
parse the compiled program, in which `collectives`, `matmul`, `kernels` and
`copies` count what it sends, computes and moves. `chips` and `roofline` turn
these counts into lower bounds on times, and `report` collects all of it.
"""
