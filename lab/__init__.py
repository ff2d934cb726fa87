"""GRPO Lab: teach a language model by rewards, watch it learn, compare, take the LoRA home."""
