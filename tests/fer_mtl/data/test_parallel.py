from __future__ import annotations

import threading

import pytest
import torch

from fer_mtl.data.parallel import parallel_map


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads: int) -> None:
    torch.set_num_threads(threads)
    assert parallel_map(lambda i: i * i, range(50)) == [i * i for i in range(50)]
    assert parallel_map(lambda i: i, []) == []


def test_each_thread_works_alone_and_the_setting_comes_back() -> None:
    torch.set_num_threads(3)
    assert set(parallel_map(lambda _: torch.get_num_threads(), range(20))) == {1}
    assert torch.get_num_threads() == 3
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]


def test_errors_reach_the_caller() -> None:
    torch.set_num_threads(2)

    def fail(i: int) -> int:
        if i == 7:
            raise ValueError("seven")
        return i

    with pytest.raises(ValueError, match="seven"):
        parallel_map(fail, range(20))
