"""Peak FLOP/s of a device: from a data sheet, or the fastest matrix product measured here.

Model FLOPs utilisation (MFU, Chowdhery et al. 2022, appendix B) is the share of the peak that a
training uses.
"""

import functools
import re
import time

import torch

# Dense bfloat16 products with float32 sums, in TFLOP/s, by words of the GPU's name in capitals; the
# first ones found count. Sources: NVIDIA's data sheets, without sparsity.
BFLOAT16 = {
    "H200": 989.4,
    "H100 PCIE": 756.0,
    "H100 NVL": 835.5,
    "H100": 989.4,
    "A100": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.2,
}
# Words of a name that tell of a slower chip, or of a part of one, as in RTX 4090 Laptop GPU.
OTHERS = {"LAPTOP", "MAX-Q", "TI", "D", "MIG"}
LONG_ENOUGH = 0.02  # seconds of a product, above which a larger one is hardly faster
LARGEST = 16_384  # rows of the largest matrix
REPEATS = 3


def peak_flops(device: torch.device, precision: str) -> float:
    """Returns the peak FLOP/s of one device at a precision of Lightning's Trainer.

    Without a data sheet it is the rate of the fastest product, measured in some 0.2 s and once a
    process: other programs on the machine lower it.
    """
    low = "16" in precision
    if device.type == "cuda":
        found = _of_data_sheet(torch.cuda.get_device_name(device))
        if found and precision != "64-true":
            # float32 products run as TensorFloat-32, at half the rate
            return found * 1e12 / (1 if low else 2)
    dtype = torch.float16 if low and "bf16" not in precision else torch.bfloat16 if low else torch.float32
    return _measured_once(device, torch.float64 if precision == "64-true" else dtype, torch.get_num_threads())


@functools.cache
def _measured_once(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    return measured_flops(device, dtype)


def _of_data_sheet(name: str) -> float | None:
    """Returns the peak of BFLOAT16 for a GPU's name; None where it has none."""
    name = name.upper()
    if OTHERS & set(name.split()):
        return None
    return next((peak for words, peak in BFLOAT16.items() if re.search(rf"\b{words}\b", name)), None)


@torch.inference_mode()
def measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measures the FLOP/s of square matrix products, doubling their size until one takes long."""
    best, size = 0.0, 256
    while True:
        a = torch.ones(size, size, device=device, dtype=dtype)
        seconds = min(_product_seconds(a) for _ in range(REPEATS))
        best = max(best, 2 * size**3 / seconds)
        if seconds > LONG_ENOUGH or size >= LARGEST:
            return best
        size *= 2


def _product_seconds(a: torch.Tensor) -> float:
    start = time.perf_counter()
    b = a @ a
    if a.device.type != "cpu":
        b[0, 0].item()  # waits for the device
    return time.perf_counter() - start
