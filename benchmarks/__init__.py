"""Measures the fused ops and FERSNet's steps against eager PyTorch, torch.compile and the machine's limits.

``make bench`` (quick) or ``make bench-full`` runs the pytest-benchmark suites. ``python -m
benchmarks.report`` prints and draws the results, ``python -m benchmarks.compare BASE`` holds this tree
against a revision.

cases.py says what is measured, providers.py by whom, measure.py how; README.md holds the figures.
"""
