"""CUDA graphs for vLLM that are ready in seconds."""

from vllm.config import CompilationConfig


def decode_graphs(most: int) -> CompilationConfig:
    """CUDA graphs of the decoding steps alone, without torch.compile: captured in seconds."""
    sizes = [size for size in (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256) if size <= most]
    if most not in sizes:
        sizes.append(most)
    return CompilationConfig(mode=0, cudagraph_mode="FULL_DECODE_ONLY",
                             cudagraph_capture_sizes=sizes)
