from __future__ import annotations

from benchmarks import machine


def test_a_folder_is_named_after_all_that_tells_machines_apart() -> None:
    found = {"device": "cpu", "processor": "AMD EPYC", "isa": "AVX512 BF16", "threads": 2}
    assert machine.slug(found) == "cpu-amd-epyc-avx512-bf16-2-threads"
    # Intel's names end with a clock rate, which is left out, and nothing of what follows it.
    intel = {**found, "processor": "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz"}
    assert machine.slug(intel) == "cpu-intel-xeon-gold-6248-cpu-avx512-bf16-2-threads"
    assert machine.slug({"device": "NVIDIA H100 80GB HBM3"}) == "cuda-nvidia-h100-80gb-hbm3"
