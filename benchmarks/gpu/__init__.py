"""Everything that needs a card, in one run: ``make gpu``, or ``python -m benchmarks.gpu``.

    stages.py      what a stage is, and how one is run: in a process of its own, within its time
    suite.py       THE list of stages
    build.py       the native libraries, built in place
    checks.py      both GPU backends against float64, and how they behave with the rest of torch
    sanitizer.py   a few checks under compute-sanitizer
    tuning.py      ``fused_ops tune``
    timing.py      how time is taken on a card: in CUDA graphs, with the L2 cache cold and warm
    ops.py         ceilings of the card, then every op and provider against them
    steps.py       training steps of FERSNet, fused and stock
    files.py       what is left behind, in at most eight files

Only torch is needed; what else is missing (triton, nvcc, matplotlib, safetensors) is said and left out. With
``--device cpu --dry`` the same code runs without a card on tiny shapes, to see that it runs: such times mean
nothing and are marked so.
"""
