"""The worker: claims work items, runs the networks, stores results, and announces work that is due."""
