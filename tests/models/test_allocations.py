"""Which allocations are recorded, when, and of which kind."""

import torch

from video_llama.models.allocations import OTHER, AllocationTracker

KB = 1024


def block(num_blocks: int) -> torch.Tensor:
    return torch.empty(num_blocks * KB, dtype=torch.uint8)


def test_peak_is_the_largest_sum_of_what_is_alive_at_once():
    with AllocationTracker("cpu") as tracker:
        kept = block(1)
        large = block(5)
        del large
        small = block(2)
        assert tracker.peak() == {OTHER: 6 * KB}
        assert tracker.peak(first=tracker.num_operations) == {OTHER: 3 * KB}
        del small
    assert kept.numel() == KB


def test_views_and_writes_allocate_nothing():
    with AllocationTracker("cpu") as tracker:
        whole = block(4)
        whole[:KB].view(2, -1).fill_(1)
        assert tracker.peak() == {OTHER: 4 * KB}


def test_kinds():
    parameter = torch.nn.Parameter(torch.zeros(KB // 4))  # made before the tracker
    with AllocationTracker("cpu") as tracker:
        tracker.mark([parameter], "parameters")
        rest = block(1)
        tracker.mark_rest("buffers")
        loss = (parameter * 2).sum()
        loss.backward()
        tracker.mark([parameter.grad], "gradients")
        kinds = tracker.peak()
    assert kinds["parameters"] == kinds["buffers"] == kinds["gradients"] == rest.numel() == KB


def test_a_resized_storage():
    with AllocationTracker("cpu") as tracker:
        gathered = block(3)
        gathered.untyped_storage().resize_(0)
        first = tracker.num_operations
        other = block(1)
        assert tracker.peak(first + 1) == {OTHER: KB}
        gathered.untyped_storage().resize_(2 * KB)
        assert tracker.peak() == {OTHER: 3 * KB}
    assert other.numel() == KB


def test_other_devices_do_not_count():
    with AllocationTracker("cuda") as tracker:
        block(1)
        assert tracker.peak() == {}
