"""Side-by-side benchmarks of this machine's stack: `make bench`. They print, they never fail."""
