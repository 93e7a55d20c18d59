"""What a step costs: counted by formula, read from a compiled program, bounded.

`flops` counts the useful work of the model by hand. `hlo` and `loops` read what
the compiler made of it, and `collectives`, `matmul`, `kernels` and `copies` say
what that sends, computes and moves. `chips` and `roofline` turn both into times
that no run can beat.
"""
