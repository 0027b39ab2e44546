"""GPUs by their published figures.

Peaks are those of dense matrices (data sheets often print twice that, with sparsity). Memory is in
GiB: the boards report the data sheet's number in these units, within two per cent.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = float(2**30)


@dataclass(frozen=True)
class Gpu:
    """One GPU and its link to its neighbours."""

    name: str
    memory_gib: float
    bandwidth: float
    """Bytes of its memory read per second."""
    flops_16: float
    """Dense FLOP/s of 16-bit matrices, added up in 32 bits."""
    flops_8: float | None
    """Dense FLOP/s of FP8 matrices; None where it has none."""
    link: float
    """Bytes per second that one GPU sends to the others while it receives as many."""
    link_latency_s: float
    """Time of an all-reduce of a few bytes."""
    max_gpus: int
    """GPUs that one such link joins."""
    source: str


# No data sheet tells the time of a small all-reduce: these are round figures of one-shot
# all-reduce kernels over NVLink and of rings over PCIe, and a report names them as assumed.
_NVLINK_LATENCY_S = 8e-6
_PCIE_LATENCY_S = 30e-6

GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="h100",
            memory_gib=80,
            bandwidth=3.35e12,
            flops_16=989.4e12,
            flops_8=1978.9e12,
            link=450e9,
            link_latency_s=_NVLINK_LATENCY_S,
            max_gpus=8,
            source="NVIDIA H100 Tensor Core GPU data sheet, SXM: 80 GB, 3.35 TB/s, NVLink 900 GB/s "
            "in both directions together; H100 architecture white paper, peaks without sparsity: "
            "989.4 TFLOP/s in BF16, 1978.9 in FP8",
        ),
        Gpu(
            name="h200",
            memory_gib=141,
            bandwidth=4.8e12,
            flops_16=989.4e12,
            flops_8=1978.9e12,
            link=450e9,
            link_latency_s=_NVLINK_LATENCY_S,
            max_gpus=8,
            source="NVIDIA H200 Tensor Core GPU data sheet, SXM: 141 GB, 4.8 TB/s, NVLink 900 GB/s "
            "in both directions together, 1,979 TFLOP/s in BF16 and 3,958 in FP8 with sparsity, "
            "which are the H100's",
        ),
        Gpu(
            name="a100",
            memory_gib=80,
            bandwidth=2.039e12,
            flops_16=312e12,
            flops_8=None,
            link=300e9,
            link_latency_s=_NVLINK_LATENCY_S,
            max_gpus=8,
            source="NVIDIA A100 80GB Tensor Core GPU data sheet, SXM4: 80 GB, 2,039 GB/s, 312 "
            "TFLOP/s in BF16 without sparsity, no FP8, NVLink 600 GB/s in both directions together",
        ),
        Gpu(
            name="rtx4090",
            memory_gib=24,
            bandwidth=1.008e12,
            flops_16=165.2e12,
            flops_8=330.3e12,
            link=32e9,
            link_latency_s=_PCIE_LATENCY_S,
            max_gpus=8,
            source="NVIDIA Ada GPU architecture white paper, GeForce RTX 4090: 24 GB, 1,008 GB/s, "
            "without sparsity and added up in FP32 165.2 TFLOP/s in FP16 and 330.3 in FP8; PCIe "
            "4.0 x16: 32 GB/s in each direction",
        ),
    )
}
