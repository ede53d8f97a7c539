"""The processor or GPU that cells compute on: which, how exactly, and how much memory it took."""

import gc
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from collapse_bench.errors import UserError

MIB = 1024 * 1024


def resolve_device(wanted: str) -> str:
    """`cpu` or `cuda`; `auto` is cuda where there is one.

    Raises:
        UserError: cuda is wanted and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def wait_for(device: str) -> None:
    """Until all that a GPU has been given is done; a processor is never ahead."""
    if device == "cuda":
        torch.cuda.synchronize()


def name_of_device(device: str) -> str:
    """The GPU's name as its driver tells it, or `cpu`.

    Raises:
        UserError: the GPU cannot be asked, which is also how one that is in use by others shows.
    """
    if device == "cpu":
        return device
    try:
        return torch.cuda.get_device_name()
    except Exception as error:  # drivers and torch have several kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"--device {device}: the GPU cannot be used: {first}; free it, or use --device cpu"
        ) from error


def prepare(threads: int, deterministic: bool) -> None:
    """Set what holds for the whole process, before a GPU has been touched.

    Args:
        threads: of the CPU's operations.
        deterministic: whether every operation has to repeat bit for bit on the same device, or
            refuse with a RuntimeError.
    """
    torch.set_num_threads(threads)
    # Adam's averages of rare words decay into denormals, which are slow on a CPU.
    torch.set_flush_denormal(True)
    # It builds a plan for each shape of a batch, about sixty of them, before its first product.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if deterministic:
        # Read when cuBLAS is loaded: without a workspace of its own a stream's sums may change.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    set_float32(FULL)


@contextmanager
def one_thread() -> Iterator[None]:
    """The CPU's operations in one thread inside, in as many as before afterwards.

    In models of a few thousand numbers more threads only wait for each other, and where other
    processes have the cores for longer than the work takes; and sums over other parts round
    otherwise.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


Float32 = tuple[str, bool]
FULL: Float32 = ("ieee", False)
"""A GPU's float32 products of matrices in all digits, and cuDNN's not in TF32, which drops some."""


def float32() -> Float32:
    """How a GPU's float32 products are computed now; of matrices `ieee`, `tf32` or `none`.

    Of cuDNN it is told by torch's older setting: where its newer one has been set, even
    `torch.backends.cudnn.flags` is an error (torch 2.13), and a second derivative of an LSTM on a
    GPU needs that.
    """
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.allow_tf32


def set_float32(how: Float32) -> None:
    """Set what `float32` tells."""
    torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.allow_tf32 = how


@contextmanager
def full_float32() -> Iterator[None]:
    """Float32 products with all digits inside, as they were afterwards."""
    before = float32()
    set_float32(FULL)
    try:
        yield
    finally:
        set_float32(before)


def peak_memory_mib() -> float:
    """Most memory of the host that this process has held so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def give_back_memory(device: str) -> None:
    """Let other processes have the GPU memory that no tensor of this one lies in."""
    if device == "cuda" and torch.cuda.is_initialized():
        gc.collect()  # a training run and its batches refer to each other
        torch.cuda.empty_cache()


def peak_gpu_memory_mib(device: str) -> float | None:
    """Most memory that this process's tensors have held on the GPU, MiB; None on a CPU.

    The CUDA context and what the allocator keeps in reserve come on top.
    """
    if device == "cpu" or not torch.cuda.is_initialized():
        return None
    return torch.cuda.max_memory_allocated() / MIB


_NO_MEMORY = (
    "can't allocate memory", "not enough memory", "bad_alloc", "can't start new thread",
    "could not create a primitive", "could not create a memory object",
)  # fmt: skip
"""What torch, C++, Python and oneDNN say of it."""


def limit_memory(most: int | None) -> None:
    """Let this process have so many bytes of its own at most; None takes the limit away.

    What it asks for beyond that is refused, which ends a cell in words, where the system would end
    the process. Counted is what it can write to, used or not, and not what its libraries are read
    from. Where there is no such limit, nothing is limited.
    """
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard if most is None else most, hard))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or of a GPU, has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in _NO_MEMORY)
