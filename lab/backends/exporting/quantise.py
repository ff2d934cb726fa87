"""Quantises a GGUF file by llama-cpp-python: `python quantise.py F16.gguf OUT.gguf Q4_K_M`.

The same routine as llama.cpp's llama-quantize, for whom has the package and not the program.
Exits with llama.cpp's own status, 0 where it is done.
"""

import ctypes
import sys

import llama_cpp


def main(whole: str, out: str, quant: str) -> int:
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quant}")
    return llama_cpp.llama_model_quantize(whole.encode(), out.encode(), ctypes.byref(how))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
