"""A PyTorch DataLoader whose spawned workers hand their batches over in shared memory.

usage: torch_loader.py

Instead of torch's own shared memory, a file and two copies for each batch, a worker's collate_fn
writes into a chunk, and the loader's process opens it. Workers have to be spawned: a forked one
has none of its parent's memory.
"""

import torch
from spawned_workers import Batch


class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.full((64, 64), float(index * index))


def collate(items):  # in the worker
    return Batch(torch.stack(items))


def main():
    # A worker has at most prefetch_factor batches on the way, which has to be at most IN_FLIGHT.
    loader = torch.utils.data.DataLoader(Squares(), batch_size=8, num_workers=2, prefetch_factor=2,
                                         multiprocessing_context="spawn", collate_fn=collate)  # fmt: skip
    total = 0.0
    for batch in loader:
        total += torch.from_numpy(batch.array).double().mean(dim=(1, 2)).sum().item()
    print(f"sum of squares {total:g}")


if __name__ == "__main__":
    main()
