"""The side with the networks: claims jobs, transcribes, stores results, and rings for what waits."""
