"""Running networks: continuous batching, greedy decoding with caches, CUDA graphs, devices and threads."""
