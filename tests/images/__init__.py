"""The images and the Compose file on a real container engine. Only by `make test-images`, and in `make soak`."""
